//! What is kept: tags that move, removal, sweeping, restarts.

use std::sync::{Arc, Mutex};

use snapshotter::{RootfsKey, Snapshotter, Usage};

use crate::sample::*;
use crate::server::Server;
use crate::{Node, run};

/// A registry whose content can be exchanged.
async fn changing(first: Sample) -> (Server, Arc<Mutex<Sample>>) {
    let current = Arc::new(Mutex::new(first));
    let served = Arc::clone(&current);
    let server = Server::start(move |asked| served.lock().unwrap().serve(asked)).await;
    (server, current)
}

#[test]
fn a_tag_that_moves_leaves_its_old_image() {
    run(async {
        let mut node = Node::new("moves");
        let (server, content) = changing(Sample::named("old")).await;
        let name = server.name("app:v");
        content.lock().unwrap().manifests.extend(tagged(&Sample::named("old"), "v"));
        let old = node.pull(&name).await.unwrap();
        let mut new = Sample::named("new");
        new.manifests.extend(tagged(&new, "v"));
        *content.lock().unwrap() = new;
        let new = node.pull(&name).await.unwrap();
        assert_ne!(old.id, new.id);
        for _ in 0..2 {
            assert_eq!(node.images.find(&name).unwrap().id, new.id);
            let left = node.images.find(old.id.as_str()).unwrap();
            assert!(left.repo_tags.is_empty() && left.repo_digests == old.repo_digests);
            node.restart();
        }
    });
}

fn tagged(sample: &Sample, tag: &str) -> Vec<(String, (String, Vec<u8>))> {
    vec![(tag.to_owned(), sample.manifests["latest"].clone())]
}

#[test]
fn one_image_may_have_many_names_and_goes_with_all_of_them() {
    run(async {
        let node = Node::new("names");
        let (server, content) = changing(Sample::named("x")).await;
        {
            let mut sample = content.lock().unwrap();
            let more = [tagged(&sample, "1"), tagged(&sample, "2")].concat();
            sample.manifests.extend(more);
        }
        let (one, two) = (server.name("app:1"), server.name("app:2"));
        node.pull(&one).await.unwrap();
        let image = node.pull(&two).await.unwrap();
        assert_eq!(
            (node.images.list().len(), image.repo_tags.clone()),
            (1, vec![one.clone(), two.clone()])
        );
        assert_eq!(image.repo_digests.len(), 1);
        let hex = image.id.hex();
        for name in
            [&one, &two, image.id.as_str(), hex, &hex[..3], &format!("sha256:{}", &hex[..12])]
        {
            assert_eq!(node.images.find(name).unwrap().id, image.id, "{name}");
        }
        for name in [&hex[..2], "sha256:", "sha256:zz", "nowhere/app", &server.name("app:3"), ""] {
            assert!(node.images.find(name).is_none(), "{name}");
        }
        node.images.remove(&one).await.unwrap();
        node.images.remove(&one).await.unwrap();
        assert!(node.images.list().is_empty() && node.images.find(&two).is_none());
        node.holds_layers(0);
        assert_eq!(node.images.usage(), Usage::default());
    });
}

#[test]
fn removing_an_image_leaves_what_others_have() {
    run(async {
        let node = Node::new("others");
        let (server, content) = changing(Sample::named("one")).await;
        let one = node.pull(&server.name("one")).await.unwrap();
        *content.lock().unwrap() = Sample::named("two");
        let two = node.pull(&server.name("two")).await.unwrap();
        node.holds_layers(3);
        let before = node.images.usage();
        node.images.remove(one.id.as_str()).await.unwrap();
        node.holds_layers(2);
        assert!(node.images.usage().bytes < before.bytes);
        assert_eq!(node.read(&two, "etc/who").as_deref(), Some("two"));
        node.images.sweep().await;
        node.holds_layers(2);
    });
}

#[test]
fn layers_below_a_container_stay_until_a_sweep_after_it() {
    run(async {
        let mut node = Node::new("used");
        let (server, _) = changing(Sample::named("x")).await;
        let image = node.pull(&server.name("app")).await.unwrap();
        let key = RootfsKey::parse("c1").unwrap();
        node.layers.prepare(&key, image.layers.last()).unwrap();
        node.images.remove(image.id.as_str()).await.unwrap();
        assert!(node.images.list().is_empty());
        node.images.sweep().await;
        node.holds_layers(2);
        node.restart();
        assert!(node.layers.rootfs(&key).is_some());
        node.layers.release(&key).unwrap();
        node.images.sweep().await;
        node.holds_layers(0);
    });
}

#[test]
fn images_are_found_again_after_a_restart_and_damaged_ones_are_not() {
    run(async {
        let mut node = Node::new("restart");
        let (server, content) = changing(Sample::named("one")).await;
        let one = node.pull(&server.name("one")).await.unwrap();
        *content.lock().unwrap() = Sample::named("two");
        let two = node.pull(&server.name("two")).await.unwrap();
        let usage = node.images.usage();
        node.restart();
        assert_eq!(node.images.find(one.id.as_str()), Some(Arc::clone(&one)));
        assert_eq!(node.images.usage(), usage);
        std::fs::write(node.dir.join("content/sha256").join(two.id.hex()), "{}").unwrap();
        std::fs::write(node.dir.join("images/zz.json"), "{").unwrap();
        node.restart();
        assert_eq!(node.images.list(), [one]);
        // What only the damaged image had goes, and it can be pulled again.
        node.images.sweep().await;
        node.holds_layers(2);
        assert_eq!(node.pull(&server.name("two")).await.unwrap().id, two.id);
        node.holds_layers(3);
    });
}

#[test]
fn a_record_cut_at_any_length_keeps_nothing_else_from_loading() {
    run(async {
        let mut node = Node::new("cut");
        let (server, content) = changing(Sample::named("one")).await;
        let one = node.pull(&server.name("one")).await.unwrap();
        *content.lock().unwrap() = Sample::named("two");
        let two = node.pull(&server.name("two")).await.unwrap();
        let path = node.dir.join("images").join(format!("{}.json", two.id.hex()));
        let whole = std::fs::read(&path).unwrap();
        for length in (0..whole.len()).step_by(11) {
            std::fs::write(&path, &whole[..length]).unwrap();
            node.restart();
            assert_eq!(node.images.list(), [Arc::clone(&one)], "{length}");
        }
    });
}

#[test]
fn removal_beside_a_pull_leaves_a_whole_image_or_none() {
    run(async {
        let node = Node::new("race");
        let (server, _) = changing(Sample::named("x")).await;
        let name = server.name("app");
        for _ in 0..20 {
            let (pulled, removed) = tokio::join!(node.pull(&name), node.images.remove(&name));
            pulled.unwrap();
            removed.unwrap();
            node.images.sweep().await;
            if let Some(image) = node.images.find(&name) {
                assert_eq!(node.read(&image, "etc/who").as_deref(), Some("x"));
                node.holds_layers(2);
                assert!(node.images.raw_config(&image.id).await.is_ok());
            } else {
                node.holds_layers(0);
            }
        }
    });
}
