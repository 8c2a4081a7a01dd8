//! Ctrl-C.

use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use bitzel_tests::Site;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use walkdir::WalkDir;

/// Whether a process of this machine has the text in its command line.
fn runs(text: &str) -> bool {
    let processes = std::fs::read_dir("/proc").expect("/proc");
    processes.filter_map(Result::ok).any(|process| {
        // A process can end while it is looked at.
        let command_line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&command_line).contains(text)
    })
}

/// Looks again and again for something that no event tells. The limit is for a program that hangs.
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_mins(5), "{what} did not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn ctrl_c_leaves_no_processes_mounts_or_temporary_trees() {
    let site = Site::empty();
    // Unlike any other test run's on this machine.
    let marker = format!("unfinished-work-{}", std::process::id());
    site.add_recipe(
        "endless",
        &format!(
            r#"
LICENSE = "MIT"
do_compile() {{
	echo endless > {marker}
	tail -f {marker}
}}
do_install() {{
	install -d ${{D}}
}}
"#
        ),
    );
    let mut build = site
        .bitzel("build")
        .args(site.build_directory_arguments())
        .arg("endless")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("bitzel starts");
    let task = format!("tail\0-f\0{marker}");
    wait_until("the endless task", || {
        assert_eq!(
            build.try_wait().expect("a status"),
            None,
            "bitzel ended by itself"
        );
        runs(&task)
    });

    kill(
        Pid::from_raw(build.id().try_into().expect("a process id")),
        Signal::SIGINT,
    )
    .expect("a signal");
    let status = build.wait().expect("bitzel ends");
    assert!(
        status.code() == Some(130) || status.signal() == Some(Signal::SIGINT as i32),
        "a shell expects 130 or the signal, not {status}"
    );

    assert!(!runs(&task), "the task still runs");
    let site_directory = site.path("").display().to_string();
    let site_directory = site_directory.trim_end_matches('/');
    assert!(!runs(site_directory), "a process of the build still runs");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    assert!(!mounts.contains(site_directory), "a mount is left:\n{mounts}");
    let left: Vec<_> = WalkDir::new(site.path(""))
        .into_iter()
        .map(|entry| entry.expect("an entry").into_path())
        .filter(|path| {
            path.starts_with(site.temporary()) && *path != site.temporary() || path.ends_with(&marker)
        })
        .collect();
    assert!(left.is_empty(), "left behind: {left:?}");

    // Nothing that was interrupted counts as done.
    site.edit_layer(
        "recipes/endless/endless_1.0.bb",
        &format!("\ttail -f {marker}\n"),
        "",
    );
    let report = site.build(&["endless"]).succeeded();
    assert!(report.tasks("ran").contains("endless:do_compile"));
}
