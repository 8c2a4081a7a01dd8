use std::path::Path;

use bitzel_access::ServerTls;
use bitzel_cas::RemoteActionCache;
use bitzel_cas::testing::sha256;
use bitzel_rpc::WatchedFiles;
use bitzel_rpc::endpoint::{self, ClientCredentials};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::json;
use tempfile::TempDir;

use super::requests::Guarded;
use super::*;

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Writes NAME.pem and NAME.key.
    fn issue(&self, directory: &Path, name: &str, common_name: &str) {
        self.issue_in(directory, name, common_name, "workers");
    }

    fn issue_in(&self, directory: &Path, name: &str, common_name: &str, unit: &str) {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params
            .distinguished_name
            .push(DnType::OrganizationalUnitName, unit);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        std::fs::write(directory.join(format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(directory.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    fn publish(&self, directory: &Path, name: &str) {
        std::fs::write(directory.join(name), self.0.pem()).unwrap();
    }
}

/// A directory with an authority, a server's certificate and one of the client w1.
fn site() -> (TempDir, Authority) {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    authority.publish(directory.path(), "ca.pem");
    authority.issue(directory.path(), "server", "server");
    authority.issue(directory.path(), "client", "w1");
    (directory, authority)
}

async fn serve(directory: &TempDir, required: bool) -> Guarded {
    let tls = json!({
        "certificate": "server.pem", "key": "server.key", "client_ca": "ca.pem",
        "client_certificate_required": required,
    });
    let rules = json!([{"groups": ["workers"], "methods": ["certificate"], "allow": ["all"]}]);
    let access = json!({"anonymous": ["read"], "rules": rules});
    let configuration = json!({"tls": tls, "access": access});
    let configuration: AccessConfiguration = serde_json::from_value(configuration).unwrap();
    Guarded::start(configuration.open(directory.path()).await.unwrap()).await
}

fn credentials(directory: &TempDir, ca: &str, certificate: bool) -> ClientCredentials {
    let path = |name: &str| directory.path().join(name);
    ClientCredentials {
        ca: Some(path(ca)),
        certificate: certificate.then(|| (path("client.pem"), path("client.key"))),
        ..ClientCredentials::default()
    }
}

/// Connects, reads and tries to write.
async fn read_and_write(server: &Guarded, credentials: &ClientCredentials) -> (bool, bool) {
    let endpoint = format!("grpcs://localhost:{}", server.port);
    let Ok(channel) = endpoint::connect_with(&endpoint, credentials).await else {
        return (false, false);
    };
    let cache = RemoteActionCache::new(channel);
    let action = sha256(b"action");
    let read = cache.get(&instance(""), action).await.is_ok();
    let result = bitzel_proto::reapi::ActionResult::default();
    let written = cache.put(&instance(""), action, result).await.is_ok();
    (read, written)
}

#[tokio::test]
async fn a_client_certificate_is_an_identity_and_may_be_optional() {
    let (directory, _authority) = site();
    let server = serve(&directory, false).await;
    let with = read_and_write(&server, &credentials(&directory, "ca.pem", true)).await;
    assert_eq!(with, (true, true));
    let without = read_and_write(&server, &credentials(&directory, "ca.pem", false)).await;
    assert_eq!(without, (true, false));
}

#[tokio::test]
async fn refuses_connections_without_the_required_certificate() {
    let (directory, _authority) = site();
    let server = serve(&directory, true).await;
    assert_eq!(
        read_and_write(&server, &credentials(&directory, "ca.pem", false)).await,
        (false, false)
    );
    Authority::new().issue(directory.path(), "client", "w1");
    assert_eq!(
        read_and_write(&server, &credentials(&directory, "ca.pem", true)).await,
        (false, false)
    );
}

#[tokio::test]
async fn rotates_certificates_while_connections_are_open() {
    let (directory, _authority) = site();
    let server = serve(&directory, false).await;
    let old = credentials(&directory, "ca.pem", false);
    let endpoint = format!("grpcs://localhost:{}", server.port);
    let up = RemoteActionCache::new(endpoint::connect_with(&endpoint, &old).await.unwrap());
    assert!(up.get(&instance(""), sha256(b"x")).await.is_ok());
    // In the middle of being replaced: certificate and key do not belong together, so the old ones stay.
    let other = Authority::new();
    other.publish(directory.path(), "other.pem");
    let key = std::fs::read(directory.path().join("server.key")).unwrap();
    other.issue(directory.path(), "server", "server");
    let new_key = std::fs::read(directory.path().join("server.key")).unwrap();
    std::fs::write(directory.path().join("server.key"), key).unwrap();
    advance(WatchedFiles::CHECK_INTERVAL).await;
    assert!(read_and_write(&server, &old).await.0);
    std::fs::write(directory.path().join("server.key"), new_key).unwrap();
    advance(WatchedFiles::CHECK_INTERVAL).await;
    assert!(
        read_and_write(&server, &credentials(&directory, "other.pem", false))
            .await
            .0
    );
    assert!(!read_and_write(&server, &old).await.0);
    // The old connection is not affected.
    assert!(up.get(&instance(""), sha256(b"x")).await.is_ok());
}

#[tokio::test]
async fn refuses_a_client_without_tls() {
    let (directory, _authority) = site();
    let server = serve(&directory, false).await;
    let endpoint = format!("grpc://127.0.0.1:{}", server.port);
    let outcome = match endpoint::connect(&endpoint).await {
        Ok(channel) => RemoteActionCache::new(channel)
            .get(&instance(""), sha256(b"x"))
            .await
            .is_ok(),
        Err(_) => false,
    };
    assert!(!outcome);
}

#[test]
fn unusable_files_are_named() {
    let (directory, _authority) = site();
    let options = |certificate: &str| TlsOptions {
        certificate: directory.path().join(certificate),
        key: directory.path().join("server.key"),
        client_ca: None,
        client_certificate_required: false,
    };
    for certificate in ["nowhere.pem", "server.key", "client.pem"] {
        let error = ServerTls::open(options(certificate)).unwrap_err().to_string();
        assert!(error.contains(certificate), "{error}");
    }
}

#[tokio::test]
async fn a_client_uses_its_renewed_certificate() {
    let (directory, authority) = site();
    let server = serve(&directory, false).await;
    authority.issue_in(directory.path(), "client", "w1", "guests");
    let endpoint = format!("grpcs://localhost:{}", server.port);
    let credentials = credentials(&directory, "ca.pem", true);
    let channel = endpoint::connect_with(&endpoint, &credentials).await.unwrap();
    let cache = RemoteActionCache::new(channel);
    let may_write = async || {
        assert!(cache.get(&instance(""), sha256(b"x")).await.is_ok());
        let result = bitzel_proto::reapi::ActionResult::default();
        cache.put(&instance(""), sha256(b"x"), result).await.is_ok()
    };
    assert!(!may_write().await);
    // In the middle of being replaced: the key does not belong to the certificate.
    let key = std::fs::read(directory.path().join("client.key")).unwrap();
    authority.issue(directory.path(), "client", "w1");
    let new_key = std::fs::read(directory.path().join("client.key")).unwrap();
    std::fs::write(directory.path().join("client.key"), key).unwrap();
    advance(WatchedFiles::CHECK_INTERVAL).await;
    assert!(!may_write().await);
    std::fs::write(directory.path().join("client.key"), new_key).unwrap();
    advance(WatchedFiles::CHECK_INTERVAL).await;
    assert!(may_write().await);
}
