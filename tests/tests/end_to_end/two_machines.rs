//! The same metadata on two machines gives the same graph.

use std::process::Command;

use bitzel_tests::{Site, bitzel_program};

/// What `bitzel graph --json demo-image` prints there: every signature, snapshot, path and source.
fn graph(site: &Site, mut command: Command) -> String {
    let output = command
        .args(site.build_directory_arguments())
        .args(["--json", "demo-image"])
        .output()
        .expect("the program starts");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Another host name and another user. Both are new namespaces, so no privilege is needed: the first may set the
/// host name, the second is not root.
const ON_ANOTHER_HOST: &str =
    r#"echo elsewhere > /proc/sys/kernel/hostname && exec unshare --map-user=4321 --map-group=4321 "$@""#;

#[test]
fn checkout_path_user_home_and_host_name_do_not_count() {
    let (here, there) = (Site::empty(), Site::empty());
    let one = graph(&here, here.bitzel("graph"));
    let mut elsewhere = there.command("unshare");
    elsewhere
        .args(["--map-root-user", "--uts", "sh", "-c", ON_ANOTHER_HOST, "sh"])
        .arg(bitzel_program())
        .arg("graph")
        .env("USER", "nobody-else")
        .env("LOGNAME", "nobody-else")
        .env("LANG", "C");
    let other = graph(&there, elsewhere);
    assert!(one == other, "the graphs of the two machines differ");
}
