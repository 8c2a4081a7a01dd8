//! Keys of tokens by URL, from a real server on this machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::response::Response;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::tokens::check;
use super::*;
use crate::testing::{SigningKey, claims, options};
use crate::token_authenticator::{MIN_REFRESH_INTERVAL, REFRESH_INTERVAL, VERIFIED_LIFETIME};

/// Publishes keys and counts how often they are asked for.
struct Issuer {
    url: String,
    answer: Arc<Mutex<(u16, String)>>,
    asked: Arc<AtomicUsize>,
    _server: AbortOnDropHandle<()>,
}

impl Issuer {
    async fn start(keys: &[Value]) -> Self {
        let answer = Arc::new(Mutex::new((200, json!({"keys": keys}).to_string())));
        let asked = Arc::new(AtomicUsize::new(0));
        let (answers, counted) = (Arc::clone(&answer), Arc::clone(&asked));
        let app = axum::Router::new().fallback(move || async move {
            counted.fetch_add(1, Ordering::SeqCst);
            let (code, body) = answers.lock().clone();
            let response = Response::builder().status(code).header("location", "/elsewhere");
            response.body(body).unwrap()
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys.json", listener.local_addr().unwrap());
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            url,
            answer,
            asked,
            _server: AbortOnDropHandle::new(server),
        }
    }

    fn publish(&self, keys: &[Value]) {
        self.answer(200, json!({"keys": keys}).to_string());
    }

    fn answer(&self, code: u16, body: impl Into<String>) {
        *self.answer.lock() = (code, body.into());
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    async fn open(&self) -> Result<TokenAuthenticator, crate::Error> {
        TokenAuthenticator::open(options(KeySource::parse(&self.url).unwrap())).await
    }
}

#[tokio::test]
async fn an_unknown_key_makes_the_keys_be_read_again_but_rarely() {
    let (old, new) = (SigningKey::ed(), SigningKey::ed());
    let issuer = Issuer::start(&[old.jwk("old")]).await;
    let authenticator = issuer.open().await.unwrap();
    check(&authenticator, &old.token("old", &claims())).await.unwrap();
    assert_eq!(issuer.asked(), 1);

    issuer.publish(&[new.jwk("new")]);
    let token = new.token("new", &claims());
    let refusal = check(&authenticator, &token).await.unwrap_err();
    assert!(refusal.contains("not in the key set"), "{refusal}");
    assert_eq!(issuer.asked(), 1, "they were read a moment ago");
    // Longer than the shortest time between two reads, and the old token is not remembered any more.
    advance(VERIFIED_LIFETIME.max(MIN_REFRESH_INTERVAL)).await;
    check(&authenticator, &token).await.unwrap();
    assert_eq!(issuer.asked(), 2);

    // The old key is gone, and invented ids cause no more traffic.
    check(&authenticator, &old.token("old", &claims()))
        .await
        .unwrap_err();
    for number in 0..100 {
        let made_up = old.token(&number.to_string(), &claims());
        let refusal = check(&authenticator, &made_up).await.unwrap_err();
        assert!(refusal.contains("not in the key set"), "{refusal}");
    }
    assert_eq!(issuer.asked(), 2);
    check(&authenticator, &token).await.unwrap();
}

#[tokio::test]
async fn many_tokens_of_a_new_key_read_the_keys_once() {
    let (old, new) = (SigningKey::ed(), SigningKey::ed());
    let issuer = Issuer::start(&[old.jwk("old")]).await;
    let authenticator = issuer.open().await.unwrap();
    issuer.publish(&[new.jwk("new")]);
    advance(MIN_REFRESH_INTERVAL).await;
    let tokens: Vec<String> = (0..50)
        .map(|number| {
            let mut claims = claims();
            claims["sub"] = format!("caller-{number}").into();
            new.token("new", &claims)
        })
        .collect();
    let checks = tokens.iter().map(|token| check(&authenticator, token));
    for outcome in futures::future::join_all(checks).await {
        outcome.unwrap();
    }
    assert_eq!(issuer.asked(), 2);
}

#[tokio::test]
async fn refuses_a_withdrawn_key_after_the_refresh() {
    let (kept, withdrawn) = (SigningKey::ed(), SigningKey::ed());
    let issuer = Issuer::start(&[kept.jwk("kept"), withdrawn.jwk("withdrawn")]).await;
    let authenticator = issuer.open().await.unwrap();
    let token = withdrawn.token("withdrawn", &claims());
    check(&authenticator, &token).await.unwrap();
    issuer.publish(&[kept.jwk("kept")]);
    advance(REFRESH_INTERVAL).await;
    check(&authenticator, &kept.token("kept", &claims()))
        .await
        .unwrap();
    assert_eq!(issuer.asked(), 2);
    let refusal = check(&authenticator, &token).await.unwrap_err();
    assert!(refusal.contains("not in the key set"), "{refusal}");
}

#[tokio::test]
async fn keeps_the_old_keys_while_the_issuer_fails() {
    let key = SigningKey::ed();
    let issuer = Issuer::start(&[key.jwk("k")]).await;
    let authenticator = issuer.open().await.unwrap();
    let failures = [
        (500, String::new()),
        (404, json!({"keys": [key.jwk("k")]}).to_string()),
        // Whoever can have the request go elsewhere can sign tokens.
        (302, String::new()),
        (200, "<html>".to_owned()),
        (200, json!({"keys": []}).to_string()),
        (200, " ".repeat(2 << 20)),
    ];
    for (number, (code, body)) in failures.into_iter().enumerate() {
        issuer.answer(code, body);
        advance(REFRESH_INTERVAL).await;
        check(&authenticator, &key.token("k", &claims())).await.unwrap();
        assert_eq!(issuer.asked(), number + 2);
        // A server that starts now could check no token.
        let refusal = issuer.open().await.err();
        assert!(refusal.is_some(), "{code}");
        issuer.asked.fetch_sub(1, Ordering::SeqCst);
    }
    let url = issuer.url.clone();
    drop(issuer);
    advance(REFRESH_INTERVAL).await;
    check(&authenticator, &key.token("k", &claims())).await.unwrap();
    let unreachable = TokenAuthenticator::open(options(KeySource::parse(&url).unwrap())).await;
    assert!(unreachable.unwrap_err().to_string().contains(&url));
}
