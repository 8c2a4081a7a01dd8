//! Ctrl-C, and processes that are killed.

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use bitzel_tests::{Server, Site, WorkerProcess};
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

/// A build whose only compile task never ends, and the way to see it.
struct EndlessBuild {
    site: Site,
    marker: String,
    process: Child,
}

impl EndlessBuild {
    /// Starts the build and waits until the endless task runs.
    fn start(name: &str) -> Self {
        let mut build = Self::spawn(name, &[]);
        wait_until("the endless task", || build.task_runs());
        build
    }

    /// Starts the build.
    fn spawn(name: &str, arguments: &[&str]) -> Self {
        let site = Site::empty();
        // Unlike any other test run's on this machine.
        let marker = format!("unfinished-{name}-{}", std::process::id());
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
        let process = site
            .bitzel("build")
            .args(site.build_directory_arguments())
            .args(arguments)
            .arg("endless")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("bitzel starts");
        Self {
            site,
            marker,
            process,
        }
    }

    /// Whether the task's process is there; the build has to be there too.
    fn task_runs(&mut self) -> bool {
        let status = self.process.try_wait().expect("a status");
        assert_eq!(status, None, "bitzel ended by itself");
        runs(&self.task())
    }

    /// The command line of the task's process.
    fn task(&self) -> String {
        format!("tail\0-f\0{}", self.marker)
    }

    fn end(&mut self, signal: Signal) -> ExitStatus {
        let process = Pid::from_raw(self.process.id().try_into().expect("a process id"));
        kill(process, signal).expect("bitzel can be signalled");
        self.process.wait().expect("bitzel ends")
    }

    /// Nothing that was interrupted counts as done, and what had finished does.
    fn assert_that_a_rerun_resumes(&self) {
        let endless = format!("\ttail -f {}\n", self.marker);
        self.site
            .edit_layer("recipes/endless/endless_1.0.bb", &endless, "");
        let ran = self.site.build(&["endless"]).succeeded().tasks("ran");
        assert!(ran.contains("endless:do_compile"), "{ran:?}");
        assert!(!ran.contains("endless:do_unpack"), "{ran:?}");
    }
}

impl Drop for EndlessBuild {
    fn drop(&mut self) {
        // Only a test that failed early has left it running.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn ctrl_c_leaves_no_processes_mounts_or_temporary_trees() {
    let mut build = EndlessBuild::start("interrupted");
    let status = build.end(Signal::SIGINT);
    assert!(
        status.code() == Some(130) || status.signal() == Some(Signal::SIGINT as i32),
        "a shell expects 130 or the signal, not {status}"
    );

    let site = &build.site;
    assert!(!runs(&build.task()), "the task still runs");
    let site_directory = site.path("");
    let site_text = site_directory.display().to_string();
    let site_text = site_text.trim_end_matches('/');
    assert!(!runs(site_text), "a process of the build still runs");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    assert!(!mounts.contains(site_text), "a mount is left:\n{mounts}");
    let left: Vec<_> = WalkDir::new(&site_directory)
        .into_iter()
        .map(|entry| entry.expect("an entry").into_path())
        .filter(|path| {
            let temporary = path.starts_with(site.temporary()) && *path != site.temporary();
            temporary || path.ends_with(&build.marker)
        })
        .collect();
    assert!(left.is_empty(), "left behind: {left:?}");

    build.assert_that_a_rerun_resumes();
}

#[test]
fn a_killed_build_takes_its_tasks_along_and_leaves_a_sound_store() {
    let mut build = EndlessBuild::start("killed");
    build.end(Signal::SIGKILL);
    wait_until("the end of the task", || !runs(&build.task()));
    build.assert_that_a_rerun_resumes();
}

#[test]
fn what_a_killed_worker_ran_goes_to_another_one_and_leaves_nothing() {
    let server_site = Site::empty();
    let server = Server::start_with(&server_site, &["--jobs", "0"]);
    let url = server.url();
    let worker_site = Site::empty();
    let worker = WorkerProcess::start(&worker_site, &url);
    let mut build = EndlessBuild::spawn("worker-killed", &["--remote", &url]);
    wait_until("the endless task", || build.task_runs());
    let actions = worker_site.cache().join("bitzel/worker/actions");
    assert_ne!(std::fs::read_dir(&actions).expect("actions").count(), 0);

    worker.kill();
    wait_until("the end of the task", || !runs(&build.task()));

    // The same directory, as the next process on that machine would have it.
    let next = WorkerProcess::start(&worker_site, &url);
    wait_until("the task on the next worker", || build.task_runs());
    let trees = std::fs::read_dir(&actions).expect("actions").count();
    assert_eq!(trees, 1, "the killed worker's trees are still there");
    assert_eq!(build.end(Signal::SIGINT).code(), Some(130));
    wait_until("the end of the task", || !runs(&build.task()));
    drop(next);
}
