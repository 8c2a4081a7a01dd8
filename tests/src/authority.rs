//! Certificate authority for servers with TLS.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};

use crate::site::Site;

/// Writes certificates with their keys (PKCS #8) into a site: `server.pem` and `server.key` for a server at 127.0.0.1,
/// `client.pem` and `client.key` for a client with the name `ci`, and the authority of both as `ca.pem`.
pub fn write_certificates(site: &Site) {
    let mut params = CertificateParams::new(Vec::<String>::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA");
    write(site, "ca.pem", &authority.pem());
    for (file, name, address, usage) in [
        (
            "server",
            "server",
            vec!["127.0.0.1".to_owned()],
            ExtendedKeyUsagePurpose::ServerAuth,
        ),
        ("client", "ci", Vec::new(), ExtendedKeyUsagePurpose::ClientAuth),
    ] {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(address).expect("parameters");
        // A certificate with the authority's own name would count as self-signed.
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        let certificate = params.signed_by(&key, &authority).expect("a certificate");
        write(site, &format!("{file}.pem"), &certificate.pem());
        write(site, &format!("{file}.key"), &key.serialize_pem());
    }
}

fn write(site: &Site, name: &str, text: &str) {
    std::fs::write(site.path(name), text).expect("a file of the site");
}
