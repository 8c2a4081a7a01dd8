//! Cryptography of TLS.

/// Makes ring the provider of this process. Only the first provider of a process counts: every part of bitzel that
/// uses TLS calls this before it starts.
pub fn install() {
    let _earlier = rustls::crypto::ring::default_provider().install_default();
}
