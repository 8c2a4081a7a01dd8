//! Who gets in: TLS, tokens, and what a build does without the right to record results.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bitzel_tests::{BuildReport, Server, Site, write_certificates};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::json;

const RECIPE: &str = r#"
LICENSE = "MIT"
do_install() {
	install -d ${D}${datadir}
	echo guarded > ${D}${datadir}/guarded
}
"#;

const CONFIGURATION: &str = r#"
[tls]
certificate = "server.pem"
key = "server.key"

[access]
anonymous = ["read"]

[access.tokens]
keys = "keys.json"
issuer = "issuer"
audiences = ["bitzel"]

[[access.rules]]
identities = ["*"]
allow = ["read", "cas-write", "execute"]

[[access.rules]]
groups = ["ci"]
allow = ["ac-write"]
"#;

/// A server that lets only the right ones in, and what its clients need.
struct Guarded {
    server: Server,
    site: Site,
    key: Ed25519KeyPair,
}

fn new_key() -> Ed25519KeyPair {
    let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
    Ed25519KeyPair::from_pkcs8(key.as_ref()).expect("a key")
}

fn token(key: &Ed25519KeyPair, name: &str, groups: &[&str]) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let claims = json!({
        "iss": "issuer", "aud": "bitzel", "sub": name, "groups": groups, "exp": now.as_secs() + 3600,
    });
    let part = |value: &serde_json::Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(&json!({"alg": "EdDSA", "kid": "k"})), part(&claims));
    let signature = BASE64_URL_SAFE_NO_PAD.encode(key.sign(message.as_bytes()));
    format!("{message}.{signature}")
}

impl Guarded {
    fn start() -> Self {
        let site = Site::empty();
        write_certificates(&site);
        let signing = new_key();
        let public = BASE64_URL_SAFE_NO_PAD.encode(signing.public_key().as_ref());
        let jwk = json!({"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": public});
        for (name, text) in [
            ("keys.json", json!({"keys": [jwk]}).to_string()),
            ("access.toml", CONFIGURATION.to_owned()),
        ] {
            std::fs::write(site.path(name), text).expect("a file of the server");
        }
        let access = site.path("access.toml").display().to_string();
        let server = Server::start_with_log(&site, &["--access", &access], &site.path("log"));
        Self {
            server,
            site,
            key: signing,
        }
    }

    fn write_token(&self, name: &str, token: &str) -> PathBuf {
        let path = self.site.path(&format!("{name}.token"));
        std::fs::write(&path, token).expect("a token file");
        path
    }

    /// Builds the recipe on an empty site, with a token or without.
    fn build(&self, token_file: Option<&Path>) -> BuildReport {
        let client = Site::empty();
        client.add_recipe("guarded", RECIPE);
        let (url, ca) = (self.server.url(), self.site.path("ca.pem").display().to_string());
        let token = token_file.map(|path| path.display().to_string());
        let mut arguments = vec!["--remote", &url, "--tls-ca", &ca];
        if let Some(token) = &token {
            arguments.extend(["--token-file", token]);
        }
        arguments.push("guarded");
        client.build(&arguments)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.site.path("log")).expect("the server's log")
    }
}

#[test]
fn tokens_decide_what_a_build_may_do_and_are_never_logged() {
    let guarded = Guarded::start();
    let developer_token = token(&guarded.key, "dev", &[]);
    let developer = guarded.write_token("dev", &developer_token);
    let ci_token = token(&guarded.key, "ci", &["ci"]);
    let ci = guarded.write_token("ci", &ci_token);
    let forged_token = token(&new_key(), "ci", &["ci"]);
    let forged = guarded.write_token("forged", &forged_token);

    // A developer builds, is told once, and leaves nothing that others would take for the result of the task.
    let first = guarded.build(Some(&developer)).succeeded();
    assert!(first.tasks("ran").contains("guarded:do_install"));
    first.assert_says(&[
        "takes no results from this build",
        "dev (token) may not do this",
        "ac-write",
    ]);
    assert_eq!(first.text.matches("takes no results from this build").count(), 1);
    let second = guarded.build(Some(&developer)).succeeded();
    assert!(
        second.tasks("ran").contains("guarded:do_install"),
        "found by signature what nobody could have recorded"
    );

    // What a trusted build records is found by everybody.
    drop(guarded.build(Some(&ci)).succeeded());
    let third = guarded.build(Some(&developer)).succeeded();
    assert!(third.tasks("ran").is_empty(), "{:?}", third.tasks("ran"));
    // Anonymous callers read.
    let anonymous = guarded.build(None).succeeded();
    assert!(anonymous.tasks("ran").is_empty(), "{:?}", anonymous.tasks("ran"));

    let refused = guarded.build(Some(&forged));
    assert_eq!(refused.exit_code, Some(1), "{}", refused.text);
    refused.assert_says(&["the token's signature is wrong", "hint:", "--token-file"]);

    let log = guarded.log();
    assert!(log.contains("refused"), "the log has nothing of refusals");
    assert!(log.contains("dev (token)"), "the log has no identities");
    for token in [&developer_token, &ci_token, &forged_token] {
        let signature = token.rsplit('.').next().expect("a signature");
        assert!(!log.contains(signature), "the log has a token");
    }
}

#[test]
fn anonymous_callers_cannot_upload() {
    let guarded = Guarded::start();
    let refused = guarded.build(None);
    assert_ne!(refused.exit_code, Some(0), "{}", refused.text);
    refused.assert_says(&["this call needs credentials", "cas-write", "--token-file"]);
}

#[test]
fn a_server_for_other_machines_does_not_start_without_rules() {
    let site = Site::empty();
    for (grpc, http) in [("0.0.0.0:0", "127.0.0.1:0"), ("127.0.0.1:0", "0.0.0.0:0")] {
        let output = site
            .bitzel("serve")
            .args(["--listen", grpc, "--http-listen", http])
            .output()
            .expect("bitzel starts");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("--allow-anonymous"), "{text}");
        assert!(text.contains("--access"), "{text}");
    }
}
