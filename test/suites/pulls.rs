//! Pulling: registries with TLS, logins and tokens; many at once.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use e2e::image::catalog::{SECRET, SECURE};
use e2e::registry::{IDENTITY_TOKEN, PASSWORD, Registries, USER};
use e2e::runner::{Test, skip};
use e2e::runtime::Runtime;
use e2e::tests;
use e2e::world::World;
use proto::cri::AuthConfig;

use crate::code;

pub fn tests() -> Vec<Test> {
    tests![
        Any: https_with_a_ca_of_its_own_and_an_anonymous_token,
        Any: a_login_opens_what_is_secret,
        Any: a_login_can_be_one_base64_word,
        Any: a_refresh_token_is_a_login_too,
        Any: a_wrong_or_missing_login_is_refused,
        Any: basic_authentication_is_enough_where_it_is_asked_for,
        Any: a_pull_again_downloads_no_layer_again,
        Wherry: pulls_of_one_image_at_the_same_time_download_it_once,
        Wherry: logins_are_not_written_to_the_log,
        Any: the_registry_of_debian_serves_the_plain_images,
    ]
}

/// Pulls and removes an image: its id.
async fn pulled(world: &mut World, name: &str, auth: Option<AuthConfig>) -> String {
    let node = world.node().await;
    let id = node.cri.pull(name, auth).await.unwrap();
    assert_eq!(node.cri.image(name).await.unwrap().unwrap().id, id);
    node.cri.remove_image(&id).await.unwrap();
    id
}

async fn https_with_a_ca_of_its_own_and_an_anonymous_token(world: &mut World) {
    pulled(world, SECURE, None).await;
    let asked = world.registries.own["secure.test"].requests();
    assert!(asked.contains(&"GET /token".to_owned()), "{asked:?}");
}

async fn a_login_opens_what_is_secret(world: &mut World) {
    pulled(world, SECRET, Some(Registries::login())).await;
}

async fn a_login_can_be_one_base64_word(world: &mut World) {
    let auth = STANDARD.encode(format!("{USER}:{PASSWORD}"));
    pulled(world, SECRET, Some(AuthConfig { auth, ..Default::default() })).await;
}

async fn a_refresh_token_is_a_login_too(world: &mut World) {
    let identity_token = IDENTITY_TOKEN.into();
    pulled(world, SECRET, Some(AuthConfig { identity_token, ..Default::default() })).await;
}

async fn a_wrong_or_missing_login_is_refused(world: &mut World) {
    let node = world.node().await;
    let wrong = AuthConfig { password: "wrong".into(), ..Registries::login() };
    for auth in [None, Some(wrong)] {
        let error = node.cri.pull(SECRET, auth).await.unwrap_err();
        assert!(error.message().contains("secret/busybox"), "{error}");
        assert!(!error.message().contains("wrong"), "{error}");
        assert_eq!(node.cri.image(SECRET).await.unwrap(), None);
    }
}

async fn basic_authentication_is_enough_where_it_is_asked_for(world: &mut World) {
    let name = "basic.test/open/busybox:1";
    code(world.node().await.cri.pull(name, None).await);
    pulled(world, name, Some(Registries::login())).await;
}

async fn a_pull_again_downloads_no_layer_again(world: &mut World) {
    let node = world.node().await;
    let first = node.cri.pull(SECURE, None).await.unwrap();
    let before = world.registries.own["secure.test"].blobs_served();
    let node = world.node().await;
    assert_eq!(node.cri.pull(SECURE, None).await.unwrap(), first);
    let after = world.registries.own["secure.test"].blobs_served();
    // The configuration may be asked for again; the layer may not.
    assert!(after - before <= 1, "{before} {after}");
    world.node().await.cri.remove_image(SECURE).await.unwrap();
}

async fn pulls_of_one_image_at_the_same_time_download_it_once(world: &mut World) {
    let before = world.registries.own["secure.test"].blobs_served();
    let node = world.node().await;
    let pulls = (0..8).map(|_| node.cri.pull(SECURE, None));
    let ids = futures_util::future::join_all(pulls).await;
    let first = ids[0].clone().unwrap();
    assert!(ids.into_iter().all(|id| id.unwrap() == first));
    node.cri.remove_image(SECURE).await.unwrap();
    // One configuration and one layer.
    assert_eq!(world.registries.own["secure.test"].blobs_served() - before, 2);
}

async fn logins_are_not_written_to_the_log(world: &mut World) {
    pulled(world, SECRET, Some(Registries::login())).await;
    let log = world.node().await.log_text();
    let word = STANDARD.encode(format!("{USER}:{PASSWORD}"));
    assert!(!log.contains(PASSWORD) && !log.contains(&word) && !log.contains("token-for"));
}

async fn the_registry_of_debian_serves_the_plain_images(world: &mut World) {
    if world.registries.debian.is_none() {
        skip("docker-registry is not installed");
    }
    // What every other test pulls comes from there; this one only makes its absence visible.
    assert!(matches!(world.runtime, Runtime::Wherry | Runtime::Containerd));
}
