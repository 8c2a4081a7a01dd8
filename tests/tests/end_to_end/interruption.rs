//! Ctrl-C and killed processes.

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus, Stdio};

use bitzel_tests::{BitzelServer, ObservedProcess, Site, WorkerProcess, poll_until};
use rustix::process::{Pid, Signal, kill_process};
use walkdir::WalkDir;

/// True if a process of this machine has the text in its command line.
fn is_running(text: &str) -> bool {
    ObservedProcess::find(text).is_some()
}

/// A build whose only compile task never ends.
struct EndlessBuild {
    site: Site,
    marker: String,
    process: Child,
}

impl EndlessBuild {
    /// Starts the build and waits until the endless task runs; returns the process of the task, too.
    fn start(name: &str) -> (Self, ObservedProcess) {
        let mut build = Self::spawn(name, &[]);
        let task = build.wait_for_task();
        (build, task)
    }

    /// Starts the build.
    fn spawn(name: &str, arguments: &[&str]) -> Self {
        let site = Site::empty();
        // Unique among all runs of these tests on this machine.
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

    /// Waits for the process of the endless task. Nothing outside of its sandbox is told when a task's program starts.
    fn wait_for_task(&mut self) -> ObservedProcess {
        poll_until("the endless task runs", || {
            let status = self.process.try_wait().expect("a status");
            assert_eq!(status, None, "bitzel ended by itself");
            ObservedProcess::find(&self.task_command_line())
        })
    }

    /// The command line of the task's process.
    fn task_command_line(&self) -> String {
        format!("tail\0-f\0{}", self.marker)
    }

    fn end(&mut self, signal: Signal) -> ExitStatus {
        kill_process(Pid::from_child(&self.process), signal).expect("bitzel can be signalled");
        self.process.wait().expect("bitzel ends")
    }

    /// The next build runs the interrupted task again, and no task that had finished.
    fn assert_rerun_resumes(&self) {
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
        // Still running only after a failed assertion.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn ctrl_c_leaves_no_processes_mounts_or_temporary_trees() {
    let (mut build, _task) = EndlessBuild::start("interrupted");
    let status = build.end(Signal::INT);
    assert!(
        status.code() == Some(130) || status.signal() == Some(Signal::INT.as_raw()),
        "a shell expects 130 or the signal, not {status}"
    );

    let site = &build.site;
    assert!(!is_running(&build.task_command_line()), "the task still runs");
    let site_directory = site.path("");
    let site_text = site_directory.display().to_string();
    let site_text = site_text.trim_end_matches('/');
    assert!(!is_running(site_text), "a process of the build still runs");
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

    build.assert_rerun_resumes();
}

#[test]
fn a_killed_build_ends_its_tasks_and_can_be_resumed() {
    let (mut build, task) = EndlessBuild::start("killed");
    build.end(Signal::KILL);
    task.wait_for_end();
    build.assert_rerun_resumes();
}

#[test]
fn another_worker_runs_the_action_of_a_killed_worker() {
    let server_site = Site::empty();
    let server = BitzelServer::start_with(&server_site, &["--jobs", "0"]);
    let url = server.url();
    let worker_site = Site::empty();
    let worker = WorkerProcess::start(&worker_site, &url);
    let mut build = EndlessBuild::spawn("worker-killed", &["--remote", &url]);
    let task = build.wait_for_task();
    let actions = worker_site.cache().join("bitzel/worker/actions");
    assert_ne!(std::fs::read_dir(&actions).expect("actions").count(), 0);

    worker.kill();
    task.wait_for_end();

    // In the same directory, as after a restart of the worker on its machine.
    let next = WorkerProcess::start(&worker_site, &url);
    let task = build.wait_for_task();
    let trees = std::fs::read_dir(&actions).expect("actions").count();
    assert_eq!(trees, 1, "the killed worker's trees are still there");
    assert_eq!(build.end(Signal::INT).code(), Some(130));
    task.wait_for_end();
    drop(next);
}
