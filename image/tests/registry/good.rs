//! Pulls that succeed, and what they fetch.

use std::sync::Arc;

use crate::sample::*;
use crate::server::{Reply, Server};
use crate::{ErrorKind, Node, run};

#[test]
fn an_image_arrives_whole_and_is_not_fetched_twice() {
    run(async {
        let node = Node::new("whole");
        let sample = Sample::named("me");
        let served = sample.clone();
        let server = Server::start(move |asked| served.serve(asked)).await;
        let name = server.name("team/app");
        let image = node.pull(&name).await.unwrap();
        assert_eq!(image.id.as_str(), sample.id);
        assert_eq!(image.repo_tags, [format!("{name}:latest")]);
        assert_eq!(image.repo_digests, [format!("{name}@{}", sample.manifest)]);
        assert_eq!(
            (image.config.cmd.as_slice(), image.config.user.as_str()),
            (&["/bin/sh".to_owned()][..], "7")
        );
        assert_eq!(image.size, sample.blobs.values().map(|b| b.len() as u64).sum::<u64>());
        assert_eq!(node.read(&image, "etc/who").as_deref(), Some("me"));
        assert_eq!(node.read(&image, "base").as_deref(), Some("base"));
        assert!(node.images.raw_config(&image.id).await.unwrap().contains("\"User\":\"7\""));
        node.holds_layers(2);
        let blobs = server.count("/blobs/");
        let again = node.pull(&name).await.unwrap();
        assert_eq!(again, image);
        // Only the small configuration is looked at again.
        assert_eq!(server.count("/blobs/"), blobs + 1);
        assert!(server.log().iter().all(|asked| asked.header("authorization").is_empty()));
    });
}

#[test]
fn all_formats_are_read() {
    run(async {
        let layers = [layer(&[("a", b"1")]), layer(&[("b/c", b"2")])];
        let cases = [
            (Packing::Gzip, OCI_MANIFEST, OCI_INDEX),
            (Packing::Zstd, OCI_MANIFEST, OCI_INDEX),
            (Packing::Plain, OCI_MANIFEST, OCI_INDEX),
            (Packing::Gzip, DOCKER_MANIFEST, DOCKER_LIST),
            (Packing::Plain, DOCKER_MANIFEST, DOCKER_LIST),
        ];
        for (number, (packing, manifest, index)) in cases.into_iter().enumerate() {
            let node = Node::new(&format!("formats-{number}"));
            let mut sample = Sample::packed(&layers, packing, manifest);
            let here = format!(r#"{{"os":"linux","architecture":"{}"}}"#, architecture());
            let inner = sample.manifest.clone();
            let top = sample.index(index, &[(&inner, here)]);
            let server = Server::start(move |asked| sample.serve(asked)).await;
            let image = node.pull(&server.name("app:latest")).await.unwrap();
            assert_eq!(image.repo_digests, [server.name(&format!("app@{top}"))]);
            assert_eq!(
                (node.read(&image, "a"), node.read(&image, "b/c")),
                (Some("1".into()), Some("2".into()))
            );
        }
    });
}

#[test]
fn the_manifest_for_this_machine_is_chosen() {
    run(async {
        let node = Node::new("platform");
        let mut sample = Sample::named("right");
        let wrong = Sample::named("wrong");
        let right = sample.manifest.clone();
        let (media_type, bytes) = wrong.manifests["latest"].clone();
        let other = sample.add(bytes, &media_type, &[]);
        let platform = |arch: &str| format!(r#"{{"os":"linux","architecture":"{arch}"}}"#);
        let unknown = r#"{"os":"unknown","architecture":"unknown"}"#.to_owned();
        let inner = sample
            .index(OCI_INDEX, &[(&other, platform("s390x")), (&right, platform(architecture()))]);
        sample.index(
            OCI_INDEX,
            &[(&other, unknown), (&other, platform("s390x")), (&inner, String::new())],
        );
        let server = Server::start(move |asked| sample.serve(asked)).await;
        let image = node.pull(&server.name("app")).await.unwrap();
        assert_eq!(node.read(&image, "etc/who").as_deref(), Some("right"));
        assert_eq!(server.count(&other), 0);
    });
}

#[test]
fn an_image_for_other_machines_is_unsupported() {
    run(async {
        let node = Node::new("foreign");
        let mut sample = Sample::named("x");
        let inner = sample.manifest.clone();
        sample.index(OCI_INDEX, &[(&inner, r#"{"os":"linux","architecture":"s390x"}"#.to_owned())]);
        let server = Server::start(move |asked| sample.serve(asked)).await;
        assert_eq!(node.failure(&server.name("app")).await, ErrorKind::Unsupported);
        node.holds_layers(0);
    });
}

#[test]
fn by_digest_there_is_no_tag() {
    run(async {
        let node = Node::new("digest");
        let sample = Sample::named("x");
        let served = sample.clone();
        let server = Server::start(move |asked| served.serve(asked)).await;
        let name = server.name(&format!("app:ignored@{}", sample.manifest));
        let image = node.pull(&name).await.unwrap();
        assert_eq!((image.repo_tags.len(), image.repo_digests.len()), (0, 1));
        assert_eq!(node.images.find(&name).unwrap().id, image.id);
    });
}

#[test]
fn callers_of_one_name_share_one_pull() {
    run(async {
        let node = Node::new("shared");
        let sample = Sample::named("x");
        let server = Server::start(move |asked| sample.serve(asked)).await;
        let name = server.name("app");
        let (a, b, c) = tokio::join!(node.pull(&name), node.pull(&name), node.pull(&name));
        assert!(Arc::ptr_eq(&a.unwrap(), &b.unwrap()) && c.is_ok());
        assert_eq!(server.count("/manifests/"), 1);
    });
}

#[test]
fn pulls_of_images_with_common_layers_fetch_them_once() {
    run(async {
        let node = Node::new("common");
        let base = layer(&[("base", &noise(400_000, 1))]);
        let one = Sample::new(&[base.clone(), layer(&[("one", b"1")])]);
        let two = Sample::new(&[base, layer(&[("two", b"2")])]);
        let (served, other) = (one.clone(), two.clone());
        let server = Server::start(move |asked| {
            if asked.path.contains("/one/") { served.serve(asked) } else { other.serve(asked) }
        })
        .await;
        let (first, second) = (server.name("one"), server.name("two"));
        let (a, b) = tokio::join!(node.pull(&first), node.pull(&second));
        assert_eq!(node.read(&a.unwrap(), "one").as_deref(), Some("1"));
        assert_eq!(node.read(&b.unwrap(), "two").as_deref(), Some("2"));
        assert_eq!(server.count(&one.blob(0)), 1);
        node.holds_layers(3);
    });
}

#[test]
fn layers_finish_in_any_order() {
    run(async {
        let node = Node::new("order");
        let layers: Vec<_> =
            (0..7).map(|n| layer(&[(&format!("f{n}"), &noise(300_000 - 40_000 * n, 3))])).collect();
        let sample = Sample::new(&layers);
        let server = Server::start(move |asked| sample.serve(asked)).await;
        let image = node.pull(&server.name("app")).await.unwrap();
        assert_eq!(image.layers.len(), 7);
        assert!((0..7).all(|n| node.layers_have(&image, &format!("f{n}"))));
        node.holds_layers(7);
    });
}

#[test]
fn an_image_without_layers_is_an_image() {
    run(async {
        let node = Node::new("empty");
        let sample = Sample::new(&[]);
        let server = Server::start(move |asked| sample.serve(asked)).await;
        let image = node.pull(&server.name("app")).await.unwrap();
        assert!(image.layers.is_empty() && image.size > 0);
    });
}

#[test]
fn mirrors_are_asked_first_and_told_the_registry() {
    run(async {
        let node = Node::new("mirror");
        let sample = Sample::named("x");
        let served = sample.clone();
        let mirror = Server::start(move |asked| served.serve(asked)).await;
        let empty = Server::start(|_| Reply::new(404, "")).await;
        let hosts =
            format!("[host.\"http://{}\"]\n[host.\"http://{}\"]", empty.address, mirror.address);
        node.hosts("registry.example", &hosts);
        let image = node.pull("registry.example/app").await.unwrap();
        assert_eq!(image.repo_tags, ["registry.example/app:latest"]);
        assert!(empty.count("/manifests/latest?ns=registry.example") == 1);
        assert!(mirror.log().iter().all(|asked| asked.path.ends_with("?ns=registry.example")));
    });
}

#[test]
fn the_server_is_asked_when_mirrors_fail() {
    run(async {
        let node = Node::new("fallback");
        let sample = Sample::named("x");
        let (served, good) = (sample.clone(), sample.clone());
        // A mirror that knows the image and has one layer wrong.
        let wrong = sample.blob(1);
        let mirror = Server::start(move |asked| match asked.path.contains(&wrong) {
            true => Reply::new(200, vec![b'x'; served.blobs[&served.layers[1]].len()]),
            false => served.serve(asked),
        })
        .await;
        let upstream = Server::start(move |asked| good.serve(asked)).await;
        let down = "http://127.0.0.1:9";
        let hosts = format!(
            "server = \"http://{}\"\n[host.\"{down}\"]\n[host.\"http://{}\"]\ncapabilities = [\"pull\"]",
            upstream.address, mirror.address
        );
        node.hosts("registry.example", &hosts);
        let image = node.pull("registry.example/app").await.unwrap();
        assert_eq!(node.read(&image, "etc/who").as_deref(), Some("x"));
        // Without the capability to resolve, a mirror is not asked for tags.
        assert_eq!((mirror.count("/manifests/"), upstream.count("/manifests/")), (0, 1));
        assert_eq!((upstream.count(&sample.blob(0)), upstream.count(&sample.blob(1))), (0, 1));
        node.holds_layers(2);
    });
}

impl Node {
    fn layers_have(&self, image: &crate::Image, path: &str) -> bool {
        use snapshotter::Snapshotter;
        let dirs = self.layers.layer_dirs(image.layers.last().unwrap()).unwrap();
        dirs.iter().any(|dir| dir.join(path).exists())
    }
}
