//! Identity in a client certificate.

use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;
use x509_parser::prelude::X509Certificate;

use crate::authenticator::PeerCertificate;
use crate::identity::{AuthenticationMethod, Identity};

impl PeerCertificate {
    /// Reads a certificate whose chain TLS has verified. The name is the common name of the subject, or else the first
    /// alternative name that is text; the groups are the organisational units. `None` if there is no name.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = parse_x509_certificate(certificate).ok()?;
        let common = certificate
            .subject()
            .iter_common_name()
            .find_map(|name| name.as_str().ok().map(str::to_owned));
        let name = common.or_else(|| alternative_name(&certificate))?;
        let groups = certificate
            .subject()
            .iter_organizational_unit()
            .filter_map(|unit| unit.as_str().ok().map(str::to_owned))
            .collect();
        Some(Self {
            identity: Arc::new(Identity {
                name,
                groups,
                method: AuthenticationMethod::Certificate,
            }),
        })
    }
}

fn alternative_name(certificate: &X509Certificate<'_>) -> Option<String> {
    let names = certificate.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::DNSName(text) | GeneralName::URI(text) | GeneralName::RFC822Name(text) => {
            Some((*text).to_owned())
        }
        _ => None,
    })
}
