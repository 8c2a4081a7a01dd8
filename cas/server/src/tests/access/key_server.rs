//! Servers of the keys of tokens.

use bitzel_access::testing::options;
use bitzel_access::{KeySource, TokenAuthenticator};
use serde_json::json;

use super::requests::Guarded;
use super::*;

/// A server that shows a certificate of nobody that this machine trusts.
#[tokio::test]
async fn refuses_keys_of_an_untrusted_https_server() {
    let directory = tempfile::tempdir().unwrap();
    let key = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(directory.path().join("server.pem"), key.cert.pem()).unwrap();
    std::fs::write(
        directory.path().join("server.key"),
        key.signing_key.serialize_pem(),
    )
    .unwrap();
    let tls =
        json!({"tls": {"certificate": "server.pem", "key": "server.key"}, "access": {"anonymous": ["read"]}});
    let configuration: AccessConfiguration = serde_json::from_value(tls).unwrap();
    let access = configuration.open(directory.path()).await.unwrap();
    let server = Guarded::start(access).await;
    let url = format!("https://localhost:{}/keys.json", server.port);
    let source = KeySource::parse(&url).unwrap();
    let refused = TokenAuthenticator::open(options(source)).await.unwrap_err();
    let reasons = bitzel_proto::with_causes(&refused);
    assert!(reasons.contains("certificate"), "{reasons}");
}
