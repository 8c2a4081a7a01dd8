//! Fetch tasks on the client (`--fetch client`), with what its user has.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use bitzel_tests::{
    BitzelServer, ListeningProcess, Site, WorkerProcess, free_address, run, text_of, tree_of,
};

/// HTTP server of a directory that asks for a user and a password.
const PRIVATE_SERVER: &str = "\
import base64, http.server, sys
class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        if self.headers.get('Authorization') == 'Basic ' + base64.b64encode(b'me:secret').decode():
            return super().do_GET()
        self.send_response(401)
        self.send_header('WWW-Authenticate', 'Basic realm=\"private\"')
        self.send_header('Content-Length', '0')
        self.end_headers()
    do_HEAD = do_GET
address = ('127.0.0.1', int(sys.argv[1]))
http.server.ThreadingHTTPServer(address, lambda *a: Handler(*a, directory=sys.argv[2])).serve_forever()
";

/// A server with a file for those who know the password, and the recipe that fetches it.
struct PrivateSource {
    recipe: String,
    _server: ListeningProcess,
}

impl PrivateSource {
    fn start(directory: &Path) -> Self {
        std::fs::create_dir_all(directory).expect("a directory");
        std::fs::write(directory.join("private.txt"), "private").expect("a file");
        let checksum = run(Command::new("sha256sum").arg(directory.join("private.txt")));
        let checksum = checksum.split_whitespace().next().expect("a digest");
        let address = free_address();
        let mut command = Command::new("/usr/bin/python3");
        command
            .args(["-c", PRIVATE_SERVER, &address.port().to_string()])
            .arg(directory);
        let recipe = format!(
            "LICENSE = \"MIT\"\nSRC_URI = \"http://{address}/private.txt;sha256sum={checksum}\"\n\
             B = \"${{WORKDIR}}/build\"\ndo_install() {{\n\t:\n}}\n\
             do_deploy[dirs] = \"${{UNPACKDIR}}\"\ndo_deploy() {{\n\tcp private.txt ${{DEPLOYDIR}}/\n}}\n"
        );
        Self {
            recipe,
            _server: ListeningProcess::start(command, &[address]),
        }
    }

    fn site(&self) -> Site {
        let site = Site::empty();
        site.add_recipe("private", &self.recipe);
        site
    }
}

#[test]
fn a_private_source_is_fetched_here_and_shared() {
    let (server_site, machine) = (Site::empty(), Site::empty());
    let source = PrivateSource::start(&server_site.path("files"));
    let server = BitzelServer::start_with(&server_site, &["--jobs", "0"]);
    // The worker's Actions do not reach loopback.
    let _worker = WorkerProcess::start_with(&machine, &server.url(), &["--action-network", "isolated"]);
    let url = server.url();
    let remote = ["--remote", url.as_str()];
    let (me, other) = (source.site(), source.site());
    let netrc = "machine 127.0.0.1 login me password secret\n";
    std::fs::write(me.path("home/.netrc"), netrc).expect(".netrc");

    let by_worker = me.build(&[&remote[..], &["private"]].concat()).failed();
    by_worker.assert_says(&["private:do_fetch FAILED"]);
    let client = ["--fetch", "client", "--action-network", "host", "private"];
    let refused = other.build(&[&remote[..], &client].concat()).failed();
    refused.assert_says(&["private:do_fetch FAILED"]);

    let fetched = me.build(&[&remote[..], &client].concat()).succeeded();
    assert!(
        fetched.tasks("ran").contains("private:do_fetch"),
        "{}",
        fetched.text
    );
    let output = other.path("output");
    let directory = output.display().to_string();
    let shared = other.build(&[&remote[..], &["--output", &directory, "private"]].concat());
    assert_eq!(
        shared.succeeded().tasks("ran"),
        BTreeSet::new(),
        "all results are shared"
    );
    let placed = tree_of(&output).into_keys();
    assert!(
        placed.into_iter().any(|path| path.ends_with("private.txt")),
        "the source is in the output"
    );
    assert_no_secret(&server_site.cache());
}

/// Looks for the password in all files of the server.
fn assert_no_secret(directory: &Path) {
    let found = Command::new("grep")
        .args(["--recursive", "--files-with-matches", "password secret"])
        .arg(directory)
        .output()
        .expect("grep starts");
    assert_eq!(
        String::from_utf8_lossy(&found.stdout),
        "",
        "the password is in the store"
    );
}

#[test]
fn a_server_does_not_fetch_on_the_client() {
    let site = Site::empty();
    let mut command = site.bitzel("build");
    let output = command
        .args(site.build_directory_arguments())
        .args([
            "--remote",
            "grpc://127.0.0.1:9",
            "--fetch",
            "client",
            "--detach",
            "zlib",
        ])
        .output()
        .expect("bitzel starts");
    assert_eq!(output.status.code(), Some(1));
    let text = text_of(&output);
    assert!(text.contains("a server cannot fetch on this machine"), "{text}");
    assert!(text.contains("--runall fetch"), "{text}");
}
