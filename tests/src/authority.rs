//! A certificate authority for servers with TLS.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use crate::site::Site;

/// Writes `server.pem` and `server.key` for a server at 127.0.0.1 into a site, and `ca.pem` for its clients.
pub fn write_certificates(site: &Site) {
    let mut params = CertificateParams::new(Vec::<String>::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA");
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters");
    // One of the authority's name would be taken for one that it made for itself.
    params.distinguished_name.push(DnType::CommonName, "server");
    let certificate = params.signed_by(&key, &authority).expect("a certificate");
    for (name, text) in [
        ("ca.pem", authority.pem()),
        ("server.pem", certificate.pem()),
        ("server.key", key.serialize_pem()),
    ] {
        std::fs::write(site.path(name), text).expect("a file of the server");
    }
}
