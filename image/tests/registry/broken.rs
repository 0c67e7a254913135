//! Registries that are broken, slow or hostile.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::sample::*;
use crate::server::{Fault, Reply, Server};
use crate::{ErrorKind, Node, run};

fn big() -> Sample {
    Sample::new(&[layer(&[("big", &noise(600_000, 7))]), layer(&[("small", b"1")])])
}

#[test]
fn a_blob_that_breaks_again_and_again_is_resumed_where_it_broke() {
    run(async {
        let node = Node::new("resume");
        let sample = big();
        let (served, blob) = (sample.clone(), sample.blob(0));
        let server = Server::start(move |asked| match asked.path.contains(&blob) {
            true => served.serve(asked).fault(Fault::Break(100_000)),
            false => served.serve(asked),
        })
        .await;
        node.pull(&server.name("app")).await.unwrap();
        let asked: Vec<_> =
            server.log().into_iter().filter(|a| a.path.contains(&sample.blob(0))).collect();
        let starts: Vec<usize> = asked.iter().map(|a| a.from().unwrap_or(0)).collect();
        assert!(starts.len() >= 6 && starts.windows(2).all(|w| w[0] < w[1]), "{starts:?}");
    });
}

#[test]
fn a_server_without_ranges_is_asked_for_all_of_it_again() {
    run(async {
        let node = Node::new("norange");
        let sample = big();
        let (served, blob) = (sample.clone(), sample.blob(0));
        let tries = AtomicUsize::new(0);
        let server = Server::start(move |asked| {
            if !asked.path.contains(&blob) {
                return served.serve(asked);
            }
            let whole = Reply::new(200, served.blobs[&served.layers[0]].clone());
            let part = 150_000 * (1 + tries.fetch_add(1, Ordering::Relaxed));
            whole.fault(Fault::Break(part))
        })
        .await;
        node.pull(&server.name("app")).await.unwrap();
        node.holds_layers(2);
    });
}

#[test]
fn a_blob_that_never_gets_further_is_given_up() {
    run(async {
        let node = Node::new("giveup");
        let sample = big();
        let (served, blob) = (sample.clone(), sample.blob(0));
        let server = Server::start(move |asked| match asked.path.contains(&blob) {
            true => served.serve(asked).fault(Fault::Break(10)),
            false => served.serve(asked),
        })
        .await;
        assert_eq!(node.failure(&server.name("app")).await, ErrorKind::Unavailable);
        assert!(server.count(&sample.blob(0)) <= 5);
        drained(&node).await;
    });
}

#[test]
fn stalls_and_drips_end_after_the_no_progress_time() {
    run(async {
        for (number, fault) in
            [Fault::Stall(50_000), Fault::Stall(0), Fault::Drip].into_iter().enumerate()
        {
            let node = Node::new(&format!("stall-{number}"));
            let sample = big();
            let (served, blob) = (sample.clone(), sample.blob(0));
            let server = Server::start(move |asked| match asked.path.contains(&blob) {
                true => served.serve(asked).fault(fault),
                false => served.serve(asked),
            })
            .await;
            let started = Instant::now();
            assert_eq!(node.failure(&server.name("app")).await, ErrorKind::Unavailable);
            assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
            drained(&node).await;
        }
    });
}

#[test]
fn a_manifest_that_stalls_drips_or_never_ends_is_given_up() {
    run(async {
        let cases = [
            (Fault::Stall(0), ErrorKind::Unavailable),
            (Fault::Drip, ErrorKind::Unavailable),
            (Fault::Endless, ErrorKind::Corrupt),
            (Fault::Break(10), ErrorKind::Unavailable),
            (Fault::Short(10), ErrorKind::Corrupt),
        ];
        for (number, (fault, kind)) in cases.into_iter().enumerate() {
            let node = Node::new(&format!("manifest-{number}"));
            let sample = Sample::named("x");
            let server = Server::start(move |asked| sample.serve(asked).fault(fault)).await;
            assert_eq!(node.failure(&server.name("app")).await, kind, "{fault:?}");
        }
    });
}

#[test]
fn wrong_content_is_corrupt_and_asked_for_once() {
    run(async {
        let sample = big();
        let length = sample.blobs[&sample.layers[0]].len();
        let honest = sample.blobs[&sample.layers[0]].clone();
        let mut flipped = honest.clone();
        flipped[length / 2] ^= 1;
        let other = gzip(&layer(&[("big", &noise(600_000, 8))]));
        let longer = [honest.clone(), vec![0; 100]].concat();
        let cases = [
            ("flipped", Reply::new(200, flipped)),
            ("other", Reply::new(200, other)),
            ("longer", Reply::new(200, longer)),
            ("shorter", Reply::new(200, honest[..length - 1].to_vec())),
            ("endless", Reply::new(200, Vec::new()).fault(Fault::Endless)),
            ("nothing", Reply::new(200, Vec::new())),
            ("other range", Reply::new(206, honest).header("Content-Range", "bytes 5-9/10")),
        ];
        for (name, reply) in cases {
            let node = Node::new(&format!("wrong-{}", name.replace(' ', "-")));
            let (served, blob) = (sample.clone(), sample.blob(0));
            let server = Server::start(move |asked| match asked.path.contains(&blob) {
                true => reply.clone(),
                false => served.serve(asked),
            })
            .await;
            assert_eq!(node.failure(&server.name("app")).await, ErrorKind::Corrupt, "{name}");
            assert_eq!(server.count(&sample.blob(0)), 1, "{name}");
            assert!(node.images.list().is_empty());
            drained(&node).await;
        }
    });
}

#[test]
fn a_layer_that_is_not_what_the_configuration_says_is_corrupt() {
    run(async {
        let node = Node::new("diffid");
        let mut sample = big();
        // The blob is what its digest says; its content is another archive than the diff id's.
        let right = sample.id.clone();
        let config = String::from_utf8(sample.blobs[&right].clone()).unwrap();
        let diff_id = config.split("diff_ids\":[\"").nth(1).unwrap()[..71].to_owned();
        let forged = config.replace(&diff_id, image::Digest::of(b"other").as_str()).into_bytes();
        let digest = image::Digest::of(&forged).to_string();
        let manifest = String::from_utf8(sample.manifests["latest"].1.clone())
            .unwrap()
            .replace(&right, &digest);
        sample.blobs.insert(digest, forged);
        sample.add(manifest.into_bytes(), OCI_MANIFEST, &["latest"]);
        let server = Server::start(move |asked| sample.serve(asked)).await;
        assert_eq!(node.failure(&server.name("app")).await, ErrorKind::Corrupt);
        drained(&node).await;
    });
}

#[test]
fn what_was_complete_before_a_failure_is_not_fetched_again() {
    run(async {
        let node = Node::with("keep", |config| config.max_parallel_downloads = 1);
        let sample = big();
        let (served, blob) = (sample.clone(), sample.blob(1));
        let broken = AtomicUsize::new(0);
        let server = Server::start(move |asked| {
            let fails = asked.path.contains(&blob) && broken.fetch_add(1, Ordering::Relaxed) == 0;
            if fails { Reply::new(404, "") } else { served.serve(asked) }
        })
        .await;
        assert_eq!(node.failure(&server.name("app")).await, ErrorKind::NotFound);
        node.pull(&server.name("app")).await.unwrap();
        assert!(server.count(&sample.blob(0)) <= 2);
        node.holds_layers(2);
    });
}

#[test]
fn an_overloaded_server_is_asked_again() {
    run(async {
        let node = Node::new("busy");
        let sample = Sample::named("x");
        let asked_before = AtomicUsize::new(0);
        let server =
            Server::start(move |asked| match asked_before.fetch_add(1, Ordering::Relaxed) % 3 {
                0 => Reply::new(503, "busy").header("Retry-After", "0"),
                1 => Reply::new(429, "busy"),
                _ => sample.serve(asked),
            })
            .await;
        node.pull(&server.name("app")).await.unwrap();
    });
}

#[test]
fn statuses_become_kinds() {
    run(async {
        for (status, kind) in [
            (404, ErrorKind::NotFound),
            (401, ErrorKind::Unauthorized),
            (403, ErrorKind::Unauthorized),
            (500, ErrorKind::Unavailable),
            (418, ErrorKind::Unavailable),
        ] {
            let node = Node::new(&format!("status-{status}"));
            let server = Server::start(move |_| Reply::new(status, "no")).await;
            assert_eq!(node.failure(&server.name("app")).await, kind, "{status}");
        }
        let node = Node::new("down");
        assert_eq!(node.failure("127.0.0.1:9/app").await, ErrorKind::Unavailable);
    });
}

#[test]
fn documents_beyond_their_limits_are_refused() {
    run(async {
        let node = Node::new("limits");
        let mut sample = Sample::named("x");
        sample.add(vec![b' '; 5 << 20], OCI_MANIFEST, &["huge"]);
        let inner = sample.manifest.clone();
        let mut top = inner.clone();
        for _ in 0..6 {
            top = sample.index(OCI_INDEX, &[(&top, String::new())]);
        }
        sample.manifests.insert("deep".into(), sample.manifests[&top].clone());
        let config = r#"{"mediaType":"application/vnd.oci.image.config.v1+json","digest":""#;
        let big = format!(r#"{{"config":{config}{}","size":10000000}},"layers":[]}}"#, sample.id);
        sample.add(big.into_bytes(), OCI_MANIFEST, &["config"]);
        let both =
            format!(r#"{{"layers":[],"manifests":[],"config":{config}{}","size":1}}}}"#, sample.id);
        sample.add(both.into_bytes(), OCI_MANIFEST, &["both"]);
        let layers = vec![
            format!(
                r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{inner}","size":1}}"#
            );
            600
        ];
        let many = format!(
            r#"{{"config":{config}{}","size":1}},"layers":[{}]}}"#,
            sample.id,
            layers.join(",")
        );
        sample.add(many.into_bytes(), OCI_MANIFEST, &["many"]);
        let server = Server::start(move |asked| sample.serve(asked)).await;
        for (tag, kind) in [
            ("huge", ErrorKind::Corrupt),
            ("deep", ErrorKind::Corrupt),
            ("config", ErrorKind::Corrupt),
            ("both", ErrorKind::Corrupt),
            ("many", ErrorKind::Unsupported),
        ] {
            assert_eq!(node.failure(&server.name(&format!("app:{tag}"))).await, kind, "{tag}");
        }
        assert!(node.images.list().is_empty());
    });
}

#[test]
fn a_manifest_that_is_not_its_digest_is_corrupt() {
    run(async {
        let node = Node::new("lied");
        let sample = Sample::named("x");
        let (manifest, other) = (sample.manifest.clone(), Sample::named("y"));
        let server = Server::start(move |asked| match asked.path.contains("/manifests/") {
            true => Reply::new(200, other.manifests["latest"].1.clone())
                .header("Content-Type", OCI_MANIFEST)
                .header("Docker-Content-Digest", sample.manifest.clone()),
            false => sample.serve(asked),
        })
        .await;
        assert_eq!(node.failure(&server.name("app")).await, ErrorKind::Corrupt);
        assert_eq!(
            node.failure(&server.name(&format!("app@{manifest}"))).await,
            ErrorKind::Corrupt
        );
    });
}

#[test]
fn a_pull_that_nobody_waits_for_ends() {
    run(async {
        let node =
            Node::with("cancel", |config| config.no_progress_timeout = Duration::from_secs(20));
        let sample = big();
        let (served, blob) = (sample.clone(), sample.blob(0));
        let server = Server::start(move |asked| match asked.path.contains(&blob) {
            true => served.serve(asked).fault(Fault::Stall(50_000)),
            false => served.serve(asked),
        })
        .await;
        let name = server.name("app");
        let given_up = tokio::time::timeout(Duration::from_millis(300), node.pull(&name)).await;
        assert!(given_up.is_err());
        drained(&node).await;
    });
}

/// Waits until every draft is gone: their threads end just after the pull.
async fn drained(node: &Node) {
    use snapshotter::Snapshotter;
    for _ in 0..200 {
        let names = std::fs::read_dir(node.dir.join("snapshots")).unwrap();
        let drafts = names
            .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().ends_with(".tmp"))
            .count();
        if drafts == 0 {
            node.holds_layers(node.layers.layers().len());
            assert!(node.images.list().is_empty());
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("a draft stayed on the disk");
}
