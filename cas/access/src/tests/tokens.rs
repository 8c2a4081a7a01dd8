use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bitzel_rpc::Secret;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::testing::{SigningKey, claims, now, options};

async fn open(keys: &[Value]) -> (TempDir, TokenAuthenticator) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.json");
    std::fs::write(&path, json!({"keys": keys}).to_string()).unwrap();
    let authenticator = TokenAuthenticator::open(options(KeySource::File(path)))
        .await
        .unwrap();
    (directory, authenticator)
}

pub(super) async fn check(authenticator: &TokenAuthenticator, token: &str) -> Result<Identity, String> {
    let credentials = Credentials::Bearer(Secret::new(token));
    let outcome = authenticator.authenticate(&credentials).await.unwrap();
    outcome
        .map(|identity| Identity::clone(&identity))
        .map_err(|refusal| refusal.to_string())
}

#[tokio::test]
async fn accepts_tokens_of_all_three_algorithms() {
    let keys = [SigningKey::rsa(), SigningKey::ec(), SigningKey::ed()];
    let jwks: Vec<Value> = keys.iter().map(|key| key.jwk(key.algorithm())).collect();
    let (_directory, authenticator) = open(&jwks).await;
    for key in &keys {
        let token = key.token(key.algorithm(), &claims());
        // The second time from memory.
        for _ in 0..2 {
            let identity = check(&authenticator, &token).await.unwrap();
            assert_eq!(identity.name, "alice");
            assert_eq!(identity.groups, ["developers", "ci"]);
        }
        let last = token.len() - 4;
        let forged = format!("{}AAAA", &token[..last]);
        let refusal = check(&authenticator, &forged).await.unwrap_err();
        assert!(
            refusal.contains("signature is wrong"),
            "{}: {refusal}",
            key.algorithm()
        );
    }
}

#[tokio::test]
async fn refuses_wrong_claims_by_name() {
    let key = SigningKey::ed();
    let (_directory, authenticator) = open(&[key.jwk("k")]).await;
    let wrong = [
        ("exp", json!(now() - 600), "has expired"),
        ("exp", Value::Null, "no claim \"exp\""),
        ("nbf", json!(now() + 600), "not valid yet"),
        ("iss", json!("somebody"), "another issuer"),
        ("aud", json!("another service"), "another audience"),
        ("aud", Value::Null, "no claim \"aud\""),
        ("iss", Value::Null, "no claim \"iss\""),
        ("sub", json!(5), "\"sub\""),
    ];
    for (claim, value, expected) in wrong {
        let mut claims = claims();
        claims[claim] = value;
        let refusal = check(&authenticator, &key.token("k", &claims)).await.unwrap_err();
        assert!(refusal.contains(expected), "{claim}: {refusal}");
    }
}

#[tokio::test]
async fn the_key_decides_the_algorithm_not_the_token() {
    let key = SigningKey::ed();
    let jwk = key.jwk("k");
    let (_directory, authenticator) = open(std::slice::from_ref(&jwk)).await;
    for algorithm in ["none", "HS256", "RS256", "ES256"] {
        let token = key.token_with_header(&json!({"alg": algorithm, "kid": "k"}), &claims());
        assert!(check(&authenticator, &token).await.is_err(), "{algorithm}");
    }
    // The public key as a shared secret: the classic.
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!(
        "{}.{}",
        part(&json!({"alg": "HS256", "kid": "k"})),
        part(&claims())
    );
    let public = BASE64_URL_SAFE_NO_PAD.decode(jwk["x"].as_str().unwrap()).unwrap();
    let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &public);
    let signature = BASE64_URL_SAFE_NO_PAD.encode(ring::hmac::sign(&secret, message.as_bytes()));
    assert!(
        check(&authenticator, &format!("{message}.{signature}"))
            .await
            .is_err()
    );
    for nonsense in ["", "a.b", "a.b.c", "....", "\u{fffd}"] {
        let refusal = check(&authenticator, nonsense).await.unwrap_err();
        assert!(refusal.contains("not a JSON Web Token"), "{refusal}");
    }
}

#[tokio::test]
async fn f15_refuses_critical_headers() {
    let key = SigningKey::ed();
    let (_directory, authenticator) = open(&[key.jwk("k")]).await;
    for critical in [json!(["exp"]), json!(["b64"]), json!([]), Value::Null] {
        let header = json!({"alg": "EdDSA", "kid": "k", "crit": critical, "b64": true});
        let token = key.token_with_header(&header, &claims());
        let refusal = check(&authenticator, &token).await.unwrap_err();
        assert!(refusal.contains("(crit)"), "{refusal}");
    }
}

#[tokio::test]
async fn takes_keys_only_from_files_and_safe_urls() {
    assert!(KeySource::parse("https://issuer/keys").is_ok());
    assert!(KeySource::parse("http://127.0.0.1:8080/keys").is_ok());
    assert_eq!(
        KeySource::parse("keys.json").unwrap(),
        KeySource::File("keys.json".into())
    );
    for url in [
        "http://issuer/keys",
        "http://localhost.evil/keys",
        "http://127.0.0.1@evil/",
        "ftp://x",
    ] {
        assert!(KeySource::parse(url).is_err(), "{url}");
    }
}
