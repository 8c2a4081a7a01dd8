//! Connection of a scheduler to a PostgreSQL that asks for TLS and a password.

use std::path::Path;

use bitzel_tests::{BitzelServer, PostgresqlServer, Site, poll_until, write_certificates};

/// Not a part of anything else that a log could contain.
const PASSWORD: &str = "correct-horse-battery";

/// Starts a server with this file of authorities and this password. Its log is the file `log` of the site.
fn start(site: &Site, port: u16, authority: &Path, password: &str) -> BitzelServer {
    std::fs::write(site.path("password"), format!("{password}\n")).expect("a file");
    let configuration = format!(
        "[execution.journal]\nmedium = \"postgresql\"\n[execution.journal.postgresql]\n\
         url = \"postgresql://bitzel@127.0.0.1:{port}/postgres?sslmode=require\"\n\
         password_file = \"password\"\ntls_ca = \"{}\"\n\
         [blobs.disk]\ndirectory = \"blobs\"\nsize = \"1GiB\"\n[actions.disk]\ndirectory = \"results\"\n",
        authority.display()
    );
    std::fs::write(site.path("server.toml"), configuration).expect("a file");
    let arguments = ["--config", "server.toml", "--admin", "127.0.0.1:0"];
    BitzelServer::start_with_log(site, &arguments, &site.path("log"))
}

fn log(site: &Site) -> String {
    let log = std::fs::read_to_string(site.path("log")).expect("a log");
    assert!(!log.contains(PASSWORD), "the password is in the log");
    log
}

/// Waits until the log says that the journal cannot be used, for this reason.
fn wait_for_refusal(site: &Site, reason: &str) {
    poll_until(reason, || {
        let log = log(site);
        let line = log
            .lines()
            .find(|line| line.contains("the journal in PostgreSQL cannot be used"))?;
        assert!(line.contains(reason), "{line}");
        Some(())
    });
}

#[test]
fn the_certificate_and_the_password_of_postgresql_count() {
    let (right, foreign) = (Site::empty(), Site::empty());
    write_certificates(&right);
    write_certificates(&foreign);
    let read = |name| std::fs::read_to_string(right.path(name)).expect("a file");
    let secured = PostgresqlServer::start_secured(&read("server.pem"), &read("server.key"), PASSWORD);
    let Some((_postgresql, port)) = secured else {
        return;
    };
    let site = Site::empty();
    let server = start(&site, port, &right.path("ca.pem"), PASSWORD);
    poll_until("it leads", || {
        server
            .metrics()
            .contains("bitzel_scheduler_leads 1")
            .then_some(())
    });
    log(&site);

    let site = Site::empty();
    let _server = start(&site, port, &foreign.path("ca.pem"), PASSWORD);
    wait_for_refusal(&site, "invalid peer certificate");

    let site = Site::empty();
    let _server = start(&site, port, &right.path("ca.pem"), "wrong");
    wait_for_refusal(&site, "password authentication failed");
}
