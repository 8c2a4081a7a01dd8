use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::rsa;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

/// Only of these tests.
const RSA_KEY: &[u8] = include_bytes!("rsa_test_key.pk8");

pub(super) enum SigningKey {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl SigningKey {
    pub(super) fn ed() -> Self {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::Ed(Ed25519KeyPair::from_pkcs8(key.as_ref()).unwrap())
    }

    fn ec() -> Self {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        Self::Ec(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.as_ref(), &random).unwrap())
    }

    fn rsa() -> Self {
        Self::Rsa(RsaKeyPair::from_pkcs8(RSA_KEY).unwrap())
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "RS256",
            Self::Ec(_) => "ES256",
            Self::Ed(_) => "EdDSA",
        }
    }

    pub(super) fn jwk(&self, id: &str) -> Value {
        let text = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        match self {
            Self::Rsa(key) => {
                let components = rsa::PublicKeyComponents::<Vec<u8>>::from(key.public());
                json!({"kty": "RSA", "kid": id, "n": text(&components.n), "e": text(&components.e)})
            }
            Self::Ec(key) => {
                let point = &key.public_key().as_ref()[1..];
                json!({"kty": "EC", "crv": "P-256", "kid": id, "x": text(&point[..32]), "y": text(&point[32..])})
            }
            Self::Ed(key) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": id, "x": text(key.public_key().as_ref())})
            }
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)
                    .unwrap();
                signature
            }
            Self::Ec(key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Ed(key) => key.sign(message).as_ref().to_vec(),
        }
    }

    pub(super) fn token(&self, id: &str, claims: &Value) -> String {
        self.token_with_header(&json!({"alg": self.algorithm(), "kid": id}), claims)
    }

    fn token_with_header(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(header), part(claims));
        let signature = BASE64_URL_SAFE_NO_PAD.encode(self.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }
}

pub(super) fn claims() -> Value {
    json!({
        "iss": "issuer", "aud": "bitzel", "sub": "alice", "exp": now() + 600, "groups": ["developers", "ci"],
    })
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

pub(super) fn options(keys: KeySource) -> TokenOptions {
    TokenOptions {
        keys,
        issuer: "issuer".into(),
        audiences: vec!["bitzel".into()],
        identity_claim: "sub".into(),
        groups_claim: "groups".into(),
    }
}

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
async fn tokens_of_all_three_algorithms_are_taken() {
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
async fn tokens_with_wrong_claims_are_refused_with_the_claim() {
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
async fn the_key_says_which_algorithm_and_not_the_token() {
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
async fn keys_are_only_taken_from_where_nobody_can_change_them_on_the_way() {
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
