//! Networks made by plugins: Debian's real ones, and scripts that behave badly.

#![allow(clippy::unwrap_used)]

mod isolation;

use std::fs;
use std::time::{Duration, Instant};

use cni::{Network, NetworkError, PortMapping, Protocol};
use isolation::{Node, eventually, isolated, links, ping, run};

fn real_conflist(node: &Node) -> String {
    let data = node.dir.join("leases");
    format!(
        r#"{{"cniVersion":"1.0.0","name":"real","plugins":[
            {{"type":"loopback"}},
            {{"type":"bridge","bridge":"cni-test0","isGateway":true,"ipMasq":false,
              "ipam":{{"type":"host-local","dataDir":"{}","ranges":[[{{"subnet":"10.77.0.0/24"}}]],
                       "routes":[{{"dst":"0.0.0.0/0"}}]}}}},
            {{"type":"portmap","capabilities":{{"portMappings":true}}}}]}}"#,
        data.display()
    )
}

/// The addresses that host-local has lent.
fn leases(node: &Node) -> usize {
    fs::read_dir(node.dir.join("leases/real"))
        .map(|dir| {
            let names = dir.map(|file| file.unwrap().file_name().into_string().unwrap());
            names.filter(|name| name.starts_with("10.77")).count()
        })
        .unwrap_or(0)
}

#[test]
fn real_plugins_connect_pods_and_are_undone_after_a_restart_and_without_a_namespace() {
    let name = "real_plugins_connect_pods_and_are_undone_after_a_restart_and_without_a_namespace";
    if !isolation::real_plugins().join("bridge").exists() {
        println!("SKIPPED {name}: needs Debian's containernetworking-plugins");
        return;
    }
    isolated(name, |node| async move {
        node.write_conf("10-real.conflist", &real_conflist(&node));
        let network = node.open();
        let status = network.status().await;
        assert!(status.ready && status.plugin == "real", "{status:?}");
        let (mut a, b) = (node.pod("aa"), node.pod("bb"));
        a.port_mappings = vec![PortMapping {
            protocol: Protocol::Tcp,
            container_port: 80,
            host_port: 18080,
            host_ip: None,
        }];
        let at = network.attach(&a).await.unwrap();
        network.attach(&b).await.unwrap();
        assert_eq!(at.ips.len(), 1);
        assert!(at.ips[0].to_string().starts_with("10.77.0."), "{:?}", at.ips);
        assert!(ping(&b.netns, &at.ips[0].to_string()));
        assert!(run("iptables-save", &["-t", "nat"]).contains("18080"));
        assert_eq!(leases(&node), 2);
        drop(network);

        // The configuration changes, and the daemon starts anew: DEL is run with what ADD was run with.
        node.write_conf("10-real.conflist", "{}");
        let network = node.open();
        assert_eq!(network.attachment("aa"), Some(at));
        network.detach("aa", Some(&a.netns)).await.unwrap();
        assert_eq!(leases(&node), 1);
        assert!(!run("iptables-save", &["-t", "nat"]).contains("18080"));
        assert!(!ping(&b.netns, "10.77.0.2"));
        node.unpin("bb");
        network.detach("bb", Some(&b.netns)).await.unwrap();
        network.detach("bb", None).await.unwrap();
        assert_eq!(leases(&node), 0);
        assert!(network.attached().is_empty());
        node.unpin("aa");
        eventually("the pairs are gone", || !links().iter().any(|link| link.starts_with("veth")));
    });
}

/// A plugin that writes down how it is called, and does as a file of its name tells it.
const FAULTY: &str = r#"
log="$(dirname "$0")/../log"
input=$(cat)
echo "$CNI_COMMAND $(basename "$0") netns=${CNI_NETNS:+set} prev=$(echo "$input" | grep -c prevResult)" >> "$log"
do=$(cat "$(dirname "$0")/../$(basename "$0").$CNI_COMMAND" 2>/dev/null)
case "$do" in
  hang) sleep 60 ;;
  crash) kill -SEGV $$ ;;
  garbage) echo '<html>'; exit 0 ;;
  array) echo '[]'; exit 0 ;;
  noip) echo '{"cniVersion":"1.0.0"}'; exit 0 ;;
  much) head -c 2097152 /dev/zero | tr '\0' ' '; exit 0 ;;
  error) echo '{"code":11,"msg":"no more leases","details":"ask later"}'; exit 1 ;;
esac
[ "$CNI_COMMAND" = ADD ] && echo '{"cniVersion":"1.0.0","ips":[{"address":"10.66.0.9/24"}]}'
exit 0
"#;

fn faulty(node: &Node, version: &str) {
    node.write_plugin("first", FAULTY);
    node.write_plugin("second", FAULTY);
    let list = format!(
        r#"{{"cniVersion":"{version}","name":"faulty","plugins":[{{"type":"first"}},{{"type":"second"}}]}}"#
    );
    node.write_conf("10-faulty.conflist", &list);
}

fn order(node: &Node, what: &str, how: &str) {
    fs::write(node.dir.join(what), how).unwrap();
}

fn log(node: &Node) -> Vec<String> {
    let path = node.dir.join("log");
    let text = fs::read_to_string(&path).unwrap_or_default();
    drop(fs::remove_file(path));
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_plugin_that_misbehaves_is_an_error_and_the_chain_is_undone_in_reverse() {
    isolated(
        "a_plugin_that_misbehaves_is_an_error_and_the_chain_is_undone_in_reverse",
        |node| async move {
            faulty(&node, "1.0.0");
            let mut config = node.config();
            config.timeout = Duration::from_secs(2);
            let network = Network::open(config).unwrap();
            let pod = node.pod("aa");
            for (fault, message) in [
                ("hang", "did not end within 2s"),
                ("crash", "signal: 11"),
                ("garbage", "its result is not JSON"),
                ("array", "not a JSON object"),
                ("noip", "no address for the pod's eth0"),
                ("much", "more than 1048576 bytes"),
                ("error", "no more leases: ask later (code 11)"),
            ] {
                order(&node, "second.ADD", fault);
                let begun = Instant::now();
                let error = network.attach(&pod).await.unwrap_err().to_string();
                assert!(error.contains(message), "{fault}: {error}");
                assert!(begun.elapsed() < Duration::from_secs(6), "{fault}");
                assert_eq!(
                    log(&node),
                    [
                        "ADD first netns=set prev=0",
                        "ADD second netns=set prev=1",
                        "DEL second netns=set prev=0",
                        "DEL first netns=set prev=0",
                    ],
                    "{fault}"
                );
                assert!(network.attached().is_empty(), "{fault}");
            }
            node.unpin("aa");
        },
    );
}

#[test]
fn a_removal_that_fails_is_remembered_and_repeated() {
    isolated("a_removal_that_fails_is_remembered_and_repeated", |node| async move {
        faulty(&node, "1.0.0");
        let network = node.open();
        let pod = node.pod("aa");
        network.attach(&pod).await.unwrap();
        log(&node);
        order(&node, "second.DEL", "error");
        order(&node, "first.DEL", "crash");
        let error = network.detach("aa", Some(&pod.netns)).await.unwrap_err();
        assert!(matches!(&error, NetworkError::Several(errors) if errors.len() == 2), "{error}");
        assert_eq!(log(&node).len(), 2, "the second failure does not spare the first plugin");
        drop(network);
        let network = node.open();
        assert_eq!(network.attached(), ["aa"]);
        order(&node, "second.DEL", "");
        order(&node, "first.DEL", "");
        node.unpin("aa");
        fs::remove_dir_all(node.dir.join("conf")).unwrap();
        network.detach("aa", Some(&pod.netns)).await.unwrap();
        assert_eq!(log(&node), ["DEL second netns= prev=1", "DEL first netns= prev=1"]);
        assert!(network.attached().is_empty());
    });
}

#[test]
fn an_attach_that_was_cut_short_is_undone_from_its_intent() {
    isolated("an_attach_that_was_cut_short_is_undone_from_its_intent", |node| async move {
        faulty(&node, "1.0.0");
        order(&node, "first.ADD", "hang");
        let pod = node.pod("aa");
        {
            let network = node.open();
            let attach = network.attach(&pod);
            assert!(tokio::time::timeout(Duration::from_millis(500), attach).await.is_err());
        }
        // What a daemon finds that starts after another was killed in the middle of ADD.
        let network = node.open();
        assert_eq!(network.attached(), ["aa"]);
        assert_eq!(network.attachment("aa"), None);
        log(&node);
        network.detach("aa", None).await.unwrap();
        assert_eq!(log(&node), ["DEL second netns=set prev=0", "DEL first netns=set prev=0"]);
        assert!(network.attached().is_empty());
        node.unpin("aa");
    });
}

#[test]
fn plugins_of_version_1_1_are_asked_for_their_status_and_older_ones_are_not() {
    isolated(
        "plugins_of_version_1_1_are_asked_for_their_status_and_older_ones_are_not",
        |node| async move {
            faulty(&node, "1.0.0");
            order(&node, "second.STATUS", "error");
            let network = node.open();
            assert!(network.status().await.ready);
            assert!(log(&node).is_empty());
            faulty(&node, "1.1.0");
            let status = network.status().await;
            assert!(!status.ready && status.message.contains("no more leases"), "{status:?}");
            assert_eq!(log(&node).len(), 2);
            assert_eq!(network.status().await, status);
            assert!(log(&node).is_empty(), "the answer is good for a while");
            fs::remove_file(node.dir.join("bin/second")).unwrap();
            let status = network.status().await;
            assert!(!status.ready && status.message.contains("no such program"), "{status:?}");
        },
    );
}
