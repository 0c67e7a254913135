//! hosts.toml as operators write it.

use super::*;

fn urls(endpoints: &[Endpoint]) -> Vec<String> {
    endpoints.iter().map(|e| format!("{}://{}{}", e.scheme(), e.authority, e.path)).collect()
}

fn parsed(text: &str, registry: &str) -> Vec<Endpoint> {
    parse(text, Path::new("/certs"), registry).unwrap()
}

#[test]
fn without_configuration_only_this_node_is_asked_over_plain_http() {
    let url = |registry| urls(&endpoints(None, registry).unwrap()).remove(0);
    assert_eq!(url("docker.io"), "https://registry-1.docker.io/v2");
    assert_eq!(url("quay.io"), "https://quay.io/v2");
    assert_eq!(url("10.0.0.1:5000"), "https://10.0.0.1:5000/v2");
    assert_eq!(url("localhost:5000"), "http://localhost:5000/v2");
    assert_eq!(url("127.0.0.1:5000"), "http://127.0.0.1:5000/v2");
    assert_eq!(url("[::1]:5000"), "http://[::1]:5000/v2");
    assert_eq!(url("localhost:443"), "https://localhost:443/v2");
    assert_eq!(url("localhost"), "https://localhost/v2");
}

#[test]
fn mirrors_are_asked_in_the_order_of_the_file_and_the_server_last() {
    let text = r#"
        server = "https://docker.io"
        [host."http://zz:5000"]
          capabilities = ["pull", "resolve"]
        [host."https://aa/prefix"]
          capabilities = ["pull"]
        [host."https://mm/own/path/"]
          override_path = true
    "#;
    let hosts = parsed(text, "docker.io");
    assert_eq!(
        urls(&hosts),
        [
            "http://zz:5000/v2",
            "https://aa/prefix/v2",
            "https://mm/own/path",
            "https://registry-1.docker.io/v2"
        ]
    );
    assert!(hosts[0].resolve && !hosts[1].resolve && hosts[1].pull);
    let upstream: Vec<bool> = hosts.iter().map(|h| h.is_upstream).collect();
    assert_eq!(upstream, [false, false, false, true]);
}

#[test]
fn a_server_elsewhere_is_not_the_registry_that_credentials_are_for() {
    assert!(!parsed(r#"server = "https://mirror.example""#, "quay.io")[0].is_upstream);
    assert!(parsed(r#"server = "http://quay.io""#, "quay.io")[0].is_upstream);
    assert_eq!(urls(&parsed("skip_verify = true", "10.0.0.1:5000")), ["https://10.0.0.1:5000/v2"]);
}

#[test]
fn files_may_be_one_a_list_or_pairs() {
    let tls = |text: &str| parsed(text, "a.io").remove(0).tls;
    assert_eq!(tls(r#"ca = "ca.pem""#).authorities, [PathBuf::from("/certs/ca.pem")]);
    assert_eq!(
        tls(r#"ca = ["/x", "y"]"#).authorities,
        [PathBuf::from("/x"), PathBuf::from("/certs/y")]
    );
    assert_eq!(tls(r#"client = "both.pem""#).identities, [("/certs/both.pem".into(), None)]);
    let pair = (PathBuf::from("/certs/c"), Some(PathBuf::from("/certs/k")));
    assert_eq!(tls(r#"client = [["c", "k"]]"#).identities, [pair]);
    assert!(tls("skip_verify = true").skip_verify);
}

#[test]
fn headers_and_timeouts_are_read() {
    let text = r#"
        [host."https://m"]
          dial_timeout = "1m30s500ms"
          [host."https://m".header]
            x-one = "1"
            x-two = ["2", "3"]
    "#;
    let host = parsed(text, "a.io").remove(0);
    assert_eq!(host.dial_timeout, Some(Duration::from_millis(90_500)));
    assert_eq!(host.headers.get_all("x-two").iter().count(), 2);
    assert_eq!(host.headers["x-one"], "1");
}

#[test]
fn wrong_files_are_errors() {
    for bad in [
        "server = 1",
        "server = \"ftp://x\"",
        "[host.\"https://user@x\"]",
        "[host.\"https://x\"]\nca = 1",
        "[host.\"https://x\"]\ncapabilities = [\"fly\"]",
        "[host.\"https://x\"]\ndial_timeout = \"soon\"",
        "[host.\"https://x\"]\nclient = [[\"a\",\"b\",\"c\"]]",
        "[host.\"https://x\".header]\n\"a b\" = \"c\"",
        "host = ",
    ] {
        assert!(parse(bad, Path::new("/"), "a.io").is_err(), "{bad}");
    }
}

#[test]
fn the_first_existing_directory_counts() {
    let root = std::env::temp_dir().join(format!("hosts-{}", std::process::id()));
    let url = |registry| urls(&endpoints(Some(&root), registry).unwrap()).remove(0);
    for (name, server) in [("_default", "d"), ("a.io:5000", "colon"), ("a.io_5000_", "underscore")]
    {
        fs::create_dir_all(root.join(name)).unwrap();
        fs::write(root.join(name).join("hosts.toml"), format!("server = \"https://{server}\""))
            .unwrap();
    }
    assert_eq!(url("a.io:5000"), "https://underscore/v2");
    fs::remove_dir_all(root.join("a.io_5000_")).unwrap();
    assert_eq!(url("a.io:5000"), "https://colon/v2");
    assert_eq!(url("other.io"), "https://d/v2");
    fs::remove_file(root.join("_default/hosts.toml")).unwrap();
    fs::write(root.join("_default/ca.crt"), "").unwrap();
    let docker = endpoints(Some(&root), "127.0.0.1:5000").unwrap().remove(0);
    assert_eq!((docker.scheme(), docker.tls.authorities.len()), ("https", 1));
    fs::remove_dir_all(&root).unwrap();
}
