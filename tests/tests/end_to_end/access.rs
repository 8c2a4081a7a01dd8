//! Access control: TLS, tokens, and builds without the right to record results.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bitzel_tests::{BitzelServer, BuildReport, Site, run, write_certificates};
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
allow = ["read", "cas-write", "execute", "network"]

[[access.rules]]
groups = ["ci"]
allow = ["ac-write"]
"#;

/// A server with TLS and access rules, and the key that signs tokens for it.
struct GuardedServer {
    server: BitzelServer,
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

fn key_set(key: &Ed25519KeyPair) -> String {
    let public = BASE64_URL_SAFE_NO_PAD.encode(key.public_key().as_ref());
    json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": public}]}).to_string()
}

impl GuardedServer {
    fn start() -> Self {
        let site = Site::empty();
        write_certificates(&site);
        let signing = new_key();
        for (name, text) in [
            ("keys.json", key_set(&signing)),
            ("access.toml", CONFIGURATION.to_owned()),
        ] {
            std::fs::write(site.path(name), text).expect("a file of the server");
        }
        let access = site.path("access.toml").display().to_string();
        let server = BitzelServer::start_with_log(&site, &["--access", &access], &site.path("log"));
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

    /// Hands a build of the recipe over, and follows it to its end.
    fn build_detached(&self, token_file: &Path) {
        let client = Site::empty();
        client.add_recipe("guarded", RECIPE);
        let ca = self.site.path("ca.pem");
        let connect = |subcommand: &str| {
            let mut command = client.bitzel(subcommand);
            command
                .args(["--remote", &self.server.url(), "--tls-ca"])
                .arg(&ca);
            command.arg("--token-file").arg(token_file);
            command
        };
        let mut hand_over = connect("build");
        hand_over.args(client.build_directory_arguments());
        run(hand_over.args(["--detach", "guarded"]));
        run(&mut connect("attach"));
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.site.path("log")).expect("the server's log")
    }
}

#[test]
fn tokens_grant_rights_and_are_never_logged() {
    let guarded = GuardedServer::start();
    let developer_token = token(&guarded.key, "dev", &[]);
    let developer = guarded.write_token("dev", &developer_token);
    let ci_token = token(&guarded.key, "ci", &["ci"]);
    let ci = guarded.write_token("ci", &ci_token);
    let forged_token = token(&new_key(), "ci", &["ci"]);
    let forged = guarded.write_token("forged", &forged_token);

    // A developer's build gets one message and records no result of the task.
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
        "a result was found although the build may not record results"
    );

    // Everybody finds the results that a trusted build records.
    drop(guarded.build(Some(&ci)).succeeded());
    let third = guarded.build(Some(&developer)).succeeded();
    assert!(third.tasks("ran").is_empty(), "{:?}", third.tasks("ran"));
    // Anonymous callers may read.
    let anonymous = guarded.build(None).succeeded();
    assert!(anonymous.tasks("ran").is_empty(), "{:?}", anonymous.tasks("ran"));

    let refused = guarded.build(Some(&forged));
    assert_eq!(refused.exit_code, Some(1), "{}", refused.text);
    refused.assert_says(&["the token's signature is wrong", "hint:", "--token-file"]);

    let log = guarded.log();
    assert!(log.contains("refused"), "the log has no refusals");
    assert!(log.contains("dev (token)"), "the log has no identities");
    for token in [&developer_token, &ci_token, &forged_token] {
        let signature = token.rsplit('.').next().expect("a signature");
        assert!(!log.contains(signature), "the log has a token");
    }
}

/// As a build without hand-over.
#[test]
fn a_detached_build_records_results_as_its_owner_may() {
    let guarded = GuardedServer::start();
    let developer = guarded.write_token("dev", &token(&guarded.key, "dev", &[]));
    let ci = guarded.write_token("ci", &token(&guarded.key, "ci", &["ci"]));
    guarded.build_detached(&developer);
    let second = guarded.build(Some(&developer)).succeeded();
    assert!(
        second.tasks("ran").contains("guarded:do_install"),
        "a result was found although the build may not record results"
    );
    guarded.build_detached(&ci);
    let third = guarded.build(Some(&developer)).succeeded();
    assert!(third.tasks("ran").is_empty(), "{:?}", third.tasks("ran"));
}

/// Publishes a key set by `https`, on another server that everybody may read.
fn publish(keys: &str) -> (Site, BitzelServer, String) {
    let site = Site::empty();
    write_certificates(&site);
    let listen = ["--http-listen", "127.0.0.1:0"];
    let open_server = BitzelServer::start_with(&site, &listen);
    let address = open_server.http_url().replace("http://", "");
    let mut connection = TcpStream::connect(&address).expect("the server listens");
    let length = keys.len();
    let request = format!("PUT /dav/keys.json HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{keys}");
    connection.write_all(request.as_bytes()).expect("a request");
    let mut answer = String::new();
    connection.read_to_string(&mut answer).expect("an answer");
    assert!(answer.contains(" 201 "), "{answer}");
    drop(open_server);
    let access =
        "[tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\n[access]\nanonymous = [\"read\"]\n";
    std::fs::write(site.path("access.toml"), access).expect("rules");
    let access = site.path("access.toml").display().to_string();
    let server = BitzelServer::start_with(&site, &[&listen[..], &["--access", &access]].concat());
    let url = format!("{}/dav/keys.json", server.http_url());
    (site, server, url)
}

#[test]
fn key_sets_by_https_need_a_trusted_certificate() {
    let key = new_key();
    let (issuer, _server, url) = publish(&key_set(&key));
    assert!(url.starts_with("https://"), "{url}");
    let site = Site::empty();
    write_certificates(&site);
    let rules = CONFIGURATION.replace("keys.json", &url);
    std::fs::write(site.path("access.toml"), rules).expect("rules");
    let access = site.path("access.toml").display().to_string();

    // This machine does not trust the authority of the issuer's certificate.
    let mut refused = site.bitzel("serve");
    refused.args(["--listen", "127.0.0.1:0", "--access", &access]);
    refused.env("SSL_CERT_FILE", site.path("ca.pem"));
    let output = refused.output().expect("bitzel starts");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(&url) && text.contains("certificate"), "{text}");

    let server = BitzelServer::start_trusting(&site, &["--access", &access], &issuer.path("ca.pem"));
    let guarded = GuardedServer { server, site, key };
    let token_file = guarded.write_token("ci", &token(&guarded.key, "ci", &["ci"]));
    let built = guarded.build(Some(&token_file)).succeeded();
    assert!(built.tasks("ran").contains("guarded:do_install"));
    let forged = guarded.write_token("forged", &token(&new_key(), "ci", &["ci"]));
    assert_eq!(guarded.build(Some(&forged)).exit_code, Some(1));
}

#[test]
fn anonymous_callers_cannot_upload() {
    let guarded = GuardedServer::start();
    let refused = guarded.build(None);
    assert_ne!(refused.exit_code, Some(0), "{}", refused.text);
    refused.assert_says(&["this call needs credentials", "cas-write", "--token-file"]);
}

#[test]
fn a_public_server_does_not_start_without_access_rules() {
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
