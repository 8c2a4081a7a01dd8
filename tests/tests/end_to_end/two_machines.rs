//! Equality of the graphs of two machines with the same metadata.

use std::process::Command;

use bitzel_tests::{Site, bitzel_program, run};

/// Output of `bitzel graph --json demo-image` for a site: every signature, snapshot, path and source.
fn graph(site: &Site, mut command: Command) -> String {
    run(command
        .args(site.build_directory_arguments())
        .args(["--json", "demo-image"]))
}

/// Changes the host name and the user in two new namespaces, which needs no privileges: the first can set the host
/// name, the second is not root.
const ON_ANOTHER_HOST: &str =
    r#"echo elsewhere > /proc/sys/kernel/hostname && exec unshare --map-user=4321 --map-group=4321 "$@""#;

#[test]
fn the_graph_does_not_depend_on_machine_and_user() {
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
