//! A server with TLS and access rules for two identities.

use bitzel_tests::{BitzelServer, Site, write_certificates};

const ACCESS: &str = r#"
[tls]
certificate = "server.pem"
key = "server.key"
client_ca = "ca.pem"
[access]
passwords = "passwords"
[[access.rules]]
identities = ["ci"]
methods = ["password", "certificate"]
allow = ["read", "cas-write", "ac-write", "execute"]
[[access.rules]]
identities = ["dev"]
methods = ["password"]
allow = ["read", "cas-write"]
"#;
const PASSWORD_HASH: &str = "$2b$04$YtzLcpYmRMvefafpPrGd1uj9pQMBU2y2qMkJSW3YMv17rZ1H9gWRy";

/// Starts a server on which `ci` has all rights of a build, and `dev` may not execute Actions or record results.
///
/// Both have the password `secret`, and `client.pem` is a certificate of `ci`; `ca.pem` is the server's authority. The
/// server's log is the file `log` of the site.
pub(super) fn guarded_server(site: &Site, arguments: &[&str]) -> BitzelServer {
    write_certificates(site);
    let passwords = ["ci", "dev"]
        .map(|user| format!("{user}:{PASSWORD_HASH}\n"))
        .concat();
    std::fs::write(site.path("passwords"), passwords).expect("passwords");
    std::fs::write(site.path("access.toml"), ACCESS).expect("rules");
    let access = site.path("access.toml").display().to_string();
    let arguments = [arguments, &["--access", &access]].concat();
    BitzelServer::start_with_log(site, &arguments, &site.path("log"))
}
