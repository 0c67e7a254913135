//! Credentials: shown where they belong, and nowhere else.

use std::sync::atomic::{AtomicUsize, Ordering};

use image::{Auth, Reference};

use crate::sample::*;
use crate::server::{Asked, Reply, Server};
use crate::{ErrorKind, Node, run};

/// `user:secret`.
const BASIC: &str = "Basic dXNlcjpzZWNyZXQ=";

fn challenge(scheme: &str) -> Reply {
    Reply::new(401, "{}").header("WWW-Authenticate", scheme)
}

/// A registry that wants the token `good`, and has its token service at `/token`.
fn token_registry(
    sample: Sample,
    grant: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
) -> impl Fn(&Asked) -> Reply {
    move |asked| {
        if asked.path.starts_with("/token") {
            return grant(asked);
        }
        match asked.header("authorization") {
            "Bearer good" => sample.serve(asked),
            _ => {
                let host = asked.header("host");
                let realm = format!("http://{host}/token?a=b");
                challenge(&format!(
                    r#"Bearer realm="{realm}",service="s v",scope="repository:app:pull""#
                ))
            }
        }
    }
}

#[test]
fn basic_credentials_open_a_registry() {
    run(async {
        let node = Node::new("basic");
        let sample = Sample::named("x");
        let server = Server::start(move |asked| match asked.header("authorization") {
            BASIC => sample.serve(asked),
            _ => challenge("Basic realm=\"r\""),
        })
        .await;
        node.pull_as(&server.name("app"), "user", "secret").await.unwrap();
        // They are shown when asked for, not before.
        assert_eq!(server.log()[0].header("authorization"), "");
        let wrong = Node::new("basic-wrong");
        let kind = wrong.pull_as(&server.name("app"), "user", "wrong").await.unwrap_err().kind();
        assert_eq!(kind, ErrorKind::Unauthorized);
        assert_eq!(wrong.failure(&server.name("app")).await, ErrorKind::Unauthorized);
    });
}

#[test]
fn a_token_is_fetched_once_with_the_credentials() {
    run(async {
        let node = Node::new("token");
        let grant = |asked: &Asked| match asked.header("authorization") {
            BASIC => Reply::new(200, r#"{"access_token":"good","expires_in":60}"#),
            _ => Reply::new(401, ""),
        };
        let server = Server::start(token_registry(Sample::named("x"), grant)).await;
        node.pull_as(&server.name("app"), "user", "secret").await.unwrap();
        assert_eq!(server.count("/token"), 1);
        let asked = server.log().into_iter().find(|a| a.path.starts_with("/token")).unwrap();
        assert_eq!(asked.path, "/token?a=b&scope=repository%3Aapp%3Apull&service=s%20v");
        let anonymous = Node::new("token-anonymous");
        assert_eq!(anonymous.failure(&server.name("app")).await, ErrorKind::Unauthorized);
    });
}

#[test]
fn anonymous_tokens_identity_tokens_and_registry_tokens_work() {
    run(async {
        let node = Node::new("tokens");
        let grant = |asked: &Asked| match (
            asked.method.as_str(),
            asked.body.contains("refresh_token=ref%2Fresh"),
        ) {
            ("GET", _) if asked.header("authorization").is_empty() => {
                Reply::new(200, r#"{"token":"good"}"#)
            }
            ("POST", true) if asked.body.contains("grant_type=refresh_token") => {
                Reply::new(200, r#"{"access_token":"good"}"#)
            }
            _ => Reply::new(400, ""),
        };
        let server = Server::start(token_registry(Sample::named("x"), grant)).await;
        node.pull(&server.name("app")).await.unwrap();
        let name = Reference::parse(&server.name("app")).unwrap();
        let pull = |auth| node.images.pull(&name, Some(auth));
        pull(Auth::IdentityToken("ref/resh".into())).await.unwrap();
        let fetched = server.count("/token");
        pull(Auth::RegistryToken("good".into())).await.unwrap();
        assert_eq!(server.count("/token"), fetched);
        let kind = pull(Auth::RegistryToken("bad".into())).await.unwrap_err().kind();
        assert_eq!(kind, ErrorKind::Unauthorized);
    });
}

#[test]
fn an_expired_token_is_renewed() {
    run(async {
        let node = Node::with("expired", |config| config.max_parallel_downloads = 1);
        let sample = Sample::named("x");
        let (granted, used) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let server = Server::start(move |asked| {
            if asked.path.starts_with("/token") {
                let number = granted.fetch_add(1, Ordering::SeqCst) + 1;
                used.store(0, Ordering::SeqCst);
                return Reply::new(200, format!(r#"{{"token":"t{number}"}}"#));
            }
            let current = format!("Bearer t{}", granted.load(Ordering::SeqCst));
            // Each token is good for two requests.
            if asked.header("authorization") == current && used.fetch_add(1, Ordering::SeqCst) < 2 {
                return sample.serve(asked);
            }
            challenge(&format!(r#"Bearer realm="http://{}/token""#, asked.header("host")))
        })
        .await;
        node.pull(&server.name("app")).await.unwrap();
        assert_eq!(server.count("/token"), 2);
    });
}

#[test]
fn endless_challenges_end() {
    run(async {
        let node = Node::new("loop");
        let server = Server::start(|asked| match asked.path.starts_with("/token") {
            true => Reply::new(200, r#"{"token":"never good enough"}"#),
            false => challenge(&format!(r#"Bearer realm="http://{}/token""#, asked.header("host"))),
        })
        .await;
        let kind = node.pull_as(&server.name("app"), "user", "secret").await.unwrap_err().kind();
        assert_eq!(kind, ErrorKind::Unauthorized);
        assert!(server.log().len() <= 3, "{}", server.log().len());
    });
}

#[test]
fn a_token_service_elsewhere_over_plain_http_sees_nothing() {
    run(async {
        let node = Node::new("realm");
        let thief = Server::start(|_| Reply::new(200, r#"{"token":"x"}"#)).await;
        let realm = format!("http://localhost:{}/token", thief.address.port());
        let server = Server::start(move |_| challenge(&format!(r#"Bearer realm="{realm}""#))).await;
        let kind = node.pull_as(&server.name("app"), "user", "secret").await.unwrap_err().kind();
        assert_eq!(kind, ErrorKind::Unauthorized);
        assert!(thief.log().is_empty());
    });
}

#[test]
fn a_redirect_to_another_server_loses_the_credentials() {
    run(async {
        let node = Node::new("redirect");
        let sample = Sample::named("x");
        let (served, stored) = (sample.clone(), sample.clone());
        let storage = Server::start(move |asked| stored.serve(asked)).await;
        let target = storage.address;
        let server = Server::start(move |asked| match asked.header("authorization") {
            BASIC if asked.path.contains("/blobs/") => {
                Reply::new(307, "").header("Location", format!("http://{target}{}", asked.path))
            }
            BASIC => served.serve(asked),
            _ => challenge("Basic"),
        })
        .await;
        node.pull_as(&server.name("app"), "user", "secret").await.unwrap();
        assert!(storage.count("/blobs/") >= 3);
        assert!(storage.log().iter().all(|asked| asked.header("authorization").is_empty()));
    });
}

#[test]
fn where_a_redirect_leads_nobody_may_ask_for_credentials() {
    run(async {
        let node = Node::new("redirect-401");
        let sample = Sample::named("x");
        let thief = Server::start(|_| challenge("Basic realm=\"give me\"")).await;
        let target = thief.address;
        let server = Server::start(move |asked| match asked.path.contains("/blobs/") {
            true => Reply::new(302, "").header("Location", format!("http://{target}/steal")),
            false => sample.serve(asked),
        })
        .await;
        let error = node.pull_as(&server.name("app"), "user", "secret").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthorized);
        assert!(!thief.log().is_empty());
        assert!(thief.log().iter().all(|asked| asked.header("authorization").is_empty()));
    });
}

#[test]
fn a_mirror_that_the_operator_names_sees_the_registrys_credentials() {
    run(async {
        let node = Node::new("mirror-auth");
        let (sample, other) = (Sample::named("x"), Sample::named("x"));
        let mirror = Server::start(move |asked| match asked.header("authorization") {
            BASIC => sample.serve(asked),
            _ => challenge("Basic realm=\"mirror\""),
        })
        .await;
        let upstream = Server::start(|_| challenge("Basic")).await;
        let registry = upstream.address.to_string();
        let hosts = format!("server = \"http://{registry}\"\n[host.\"http://{}\"]", mirror.address);
        node.hosts(&registry, &hosts);
        let image = node.pull_as(&upstream.name("app"), "user", "secret").await.unwrap();
        assert_eq!(image.id.as_str(), other.id);
        assert!(upstream.log().is_empty());
    });
}

#[test]
fn redirects_end() {
    run(async {
        let node = Node::new("redirects");
        let server = Server::start(|asked| {
            Reply::new(302, "").header("Location", format!("{}x", asked.path))
        })
        .await;
        assert_eq!(node.failure(&server.name("app")).await, ErrorKind::Unavailable);
        assert!(server.log().len() <= 11);
    });
}
