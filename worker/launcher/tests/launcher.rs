//! The launcher's side of the protocol, and what it takes over from the process that starts it.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use bitzel_launcher::{
    ImageRootMount, LaunchAnswer, LaunchReport, LaunchRequest, LauncherSetup, Network, SandboxFile,
    WatchedBound, WatchedBounds,
};
use rustix::fs::{CWD, FileType, Mode, OFlags, fcntl_setfl, mknodat};
use serde::Serialize;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_bitzel-launcher");
/// Smallest file system that programs of most machines run in.
const BUBBLEWRAP: &str = "--unshare-uts --die-with-parent --ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib --symlink usr/lib64 /lib64 \
                          --ro-bind /proc /proc --dev /dev --remount-ro /dev --dir /tmp --bind . /work --remount-ro /";

/// A launcher and the worker's end of its socket.
struct Launcher {
    process: Child,
    control: BufReader<UnixStream>,
    directory: TempDir,
}

impl Launcher {
    /// Starts the launcher.
    fn start() -> Self {
        Self::start_below(&[])
    }

    /// Starts the launcher with bounds.
    fn start_with(bounds: WatchedBounds) -> Self {
        Self::start_process(&[], bounds, None)
    }

    /// Starts the launcher as the last argument of `command`.
    fn start_below(command: &[&str]) -> Self {
        Self::start_process(command, WatchedBounds::default(), None)
    }

    fn start_process(command: &[&str], bounds: WatchedBounds, image_root: Option<ImageRootMount>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("upper")).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let command = [command, &[PROGRAM]].concat();
        let process = Command::new(command[0])
            .args(&command[1..])
            .current_dir(directory.path())
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .unwrap();
        let mut launcher = Self {
            process,
            control: BufReader::new(ours),
            directory,
        };
        launcher.send(&LauncherSetup {
            bubblewrap: BUBBLEWRAP.split_whitespace().map(str::to_owned).collect(),
            files: vec![SandboxFile {
                path: "/etc/passwd".into(),
                content: "root:x:0:0::/:/bin/sh\n".into(),
            }],
            image_root,
            network: Network::Loopback,
            bounds,
        });
        launcher
    }

    /// Starts the launcher from a Python `script`, which calls `launch()` at its end.
    fn start_from_python(script: &str) -> Self {
        let script = format!(
            "import ctypes, os, sys\n\
             libc = ctypes.CDLL(None)\n\
             def launch(): os.execv(sys.argv[1], sys.argv[1:])\n\
             {script}"
        );
        Self::start_below(&["/usr/bin/python3", "-c", &script])
    }

    fn send(&mut self, message: &impl Serialize) {
        let mut line = serde_json::to_vec(message).unwrap();
        line.push(b'\n');
        self.control.get_mut().write_all(&line).unwrap();
    }

    /// The next answer; `None` if the launcher has ended.
    fn receive(&mut self) -> Option<LaunchAnswer> {
        let mut line = String::new();
        self.control.read_line(&mut line).unwrap();
        (!line.is_empty()).then(|| serde_json::from_str(&line).unwrap())
    }

    fn run(&mut self, command: &[&str]) -> LaunchAnswer {
        self.send(&request(command));
        self.receive().unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn stdout(&self) -> String {
        fs::read_to_string(self.path("stdout")).unwrap()
    }

    /// Closes the worker's end and waits for the launcher's.
    fn close(mut self) {
        drop(self.control);
        assert!(self.process.wait().unwrap().success());
    }
}

fn request(command: &[&str]) -> LaunchRequest {
    LaunchRequest {
        lower_directories: vec![],
        upper_directory: "upper".into(),
        overlay_work_directory: "overlay".into(),
        command: command.iter().map(|&argument| argument.to_owned()).collect(),
        environment: vec![("PATH".into(), "/usr/bin".into())],
        working_directory: "/work".into(),
        user_namespaces: false,
        in_input_root: false,
        stdout: "stdout".into(),
        stderr: "stderr".into(),
    }
}

fn exited(code: i32) -> LaunchAnswer {
    LaunchAnswer {
        report: LaunchReport::Exited(code),
        reusable: true,
        peak_disk_bytes: 0,
    }
}

/// Step and reason of a launcher that cannot run anything.
fn failure(mut launcher: Launcher) -> (String, String) {
    let LaunchAnswer {
        report: LaunchReport::Failed { step, reason, .. },
        reusable: false,
        ..
    } = launcher.run(&["true"])
    else {
        panic!("it did not fail");
    };
    assert_eq!(launcher.receive(), None);
    assert!(!launcher.process.wait().unwrap().success());
    (step, reason)
}

#[test]
#[cfg(not(target_feature = "crt-static"))]
fn refuses_image_roots_if_linked_dynamically() {
    // The kernel would take the dynamic linker for the holder from the image.
    let image_root = ImageRootMount {
        lower_directories: vec!["upper".into(), "root".into()],
        mount_point: "root".into(),
    };
    let mut launcher = Launcher::start_process(&[], WatchedBounds::default(), Some(image_root));
    launcher.send(&request(&["true"]));
    let report = launcher.receive().unwrap().report;
    let LaunchReport::Failed { reason, .. } = &report else {
        panic!("{report:?}");
    };
    assert!(reason.contains("static C library"), "{reason}");
}

#[test]
fn runs_one_command_after_the_other() {
    let mut launcher = Launcher::start();
    assert_eq!(launcher.run(&["sh", "-c", "echo $$; touch made"]), exited(0));
    assert_eq!(launcher.run(&["sh", "-c", "ls; exit 7"]), exited(7));
    assert_eq!(launcher.run(&["sh", "-c", "kill -TERM $$"]), exited(128 + 15));
    assert_eq!(launcher.stdout(), "2\nmade\n");
    launcher.close();
}

#[test]
fn reports_failures_of_any_length_and_goes_on() {
    // Longer than any pipe holds.
    let long = "x".repeat(100_000);
    let mut launcher = Launcher::start();
    let not_started =
        LaunchReport::CommandNotStarted(format!("{long}: No such file or directory (os error 2)"));
    assert_eq!(launcher.run(&[&long]).report, not_started);
    let mut nowhere = request(&["true"]);
    nowhere.working_directory = format!("/{long}");
    launcher.send(&nowhere);
    let failed = LaunchReport::Failed {
        step: format!("enter /{long}"),
        reason: "File name too long (os error 36)".into(),
        errno: Some(36),
    };
    assert_eq!(launcher.receive().unwrap().report, failed);
    assert_eq!(launcher.run(&["true"]), exited(0));
    launcher.close();
}

#[test]
fn ends_all_processes_when_the_worker_closes_its_end() {
    let mut launcher = Launcher::start();
    let pipe = launcher.path("upper/pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let script = "exec 3> pipe; setsid sleep 1000 & echo started >&3; sleep 1000";
    launcher.send(&request(&["sh", "-c", script]));
    let mut reader = BufReader::new(File::open(&pipe).unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert_eq!(line, "started\n");
    launcher.close();
    // The end of the file, and at once: no process has the other end.
    fcntl_setfl(reader.get_ref(), OFlags::NONBLOCK).unwrap();
    assert_eq!(reader.read_line(&mut line).unwrap(), 0);
}

#[test]
fn a_command_inherits_no_file_descriptors() {
    let mut launcher = Launcher::start_from_python("os.dup2(0, 50); os.dup2(1, 1000)\nlaunch()");
    assert_eq!(launcher.run(&["sh", "-c", "echo $(ls /proc/self/fd)"]), exited(0));
    assert_eq!(launcher.stdout(), "0 1 2 3\n");
    launcher.close();
}

#[test]
fn keys_are_out_of_reach() {
    // Joins a session keyring, as a login does, and puts a key into it.
    let mut launcher = Launcher::start_from_python(
        "libc.syscall(250, 1, None)
if libc.syscall(248, b'user', b'of the worker', b'secret', 6, -3) < 0: sys.exit('no keyrings')
launch()",
    );
    let script = "import ctypes
libc = ctypes.CDLL(None, use_errno=True)
print(libc.syscall(250, 10, -3, b'user', b'of the worker', 0), ctypes.get_errno())
print(libc.syscall(248, b'user', b'of an action', b'secret', 6, -3), ctypes.get_errno())";
    assert_eq!(launcher.run(&["python3", "-c", script]), exited(0));
    assert_eq!(launcher.stdout(), "-1 1\n-1 1\n");
    launcher.close();
}

#[test]
fn reports_forbidden_user_namespaces() {
    let forbid = "echo 0 > /proc/sys/user/max_user_namespaces; exec \"$0\"";
    let launcher = Launcher::start_below(&["unshare", "-Ur", "sh", "-c", forbid]);
    let (step, reason) = failure(launcher);
    assert_eq!(step, "unshare user and mount namespaces");
    assert!(reason.starts_with("No space left on device"), "{reason}");
}

#[test]
fn reports_missing_bubblewrap() {
    let launcher = Launcher::start_below(&["env", "PATH=/nonexistent"]);
    let (step, reason) = failure(launcher);
    assert_eq!(step, "start bubblewrap");
    assert!(reason.starts_with("No such file or directory"), "{reason}");
}

/// The bound that a script reaches, which would otherwise never end. The launcher goes on.
fn reached(bounds: WatchedBounds, script: &str) -> (WatchedBound, u64) {
    let mut launcher = Launcher::start_with(bounds);
    let answer = launcher.run(&["sh", "-c", script]);
    let LaunchReport::BoundReached { bound, used } = answer.report else {
        panic!(
            "{answer:?}, {}",
            fs::read_to_string(launcher.path("stderr")).unwrap()
        );
    };
    assert!(answer.reusable);
    fs::remove_file(launcher.path("stdout")).unwrap();
    assert_eq!(
        launcher.run(&["sh", "-c", "echo $$; chmod -R u+rwX .; rm -rf ./*"]),
        exited(0)
    );
    assert_eq!(launcher.stdout(), "2\n");
    launcher.close();
    (bound, used)
}

#[test]
fn watches_the_memory_of_processes_and_of_files() {
    let bounds = WatchedBounds {
        memory_bytes: Some(64 << 20),
        ..WatchedBounds::default()
    };
    for python in [
        "kept = bytearray(os.urandom(1 << 20) * 100)",
        "kept = mmap.mmap(-1, 100 << 20); kept.write(b'x' * (100 << 20))",
        "kept = open('/tmp/kept', 'wb'); kept.write(b'x' * (100 << 20)); kept.flush()",
    ] {
        let script = format!("exec python3 -c \"import mmap, os, signal\n{python}\nsignal.pause()\"");
        let (bound, used) = reached(bounds, &script);
        assert_eq!(bound, WatchedBound::Memory);
        assert!((64 << 20..256 << 20).contains(&used), "{used}");
    }
}

#[test]
fn counts_shared_memory_once() {
    let mut launcher = Launcher::start_with(WatchedBounds {
        memory_bytes: Some(192 << 20),
        ..WatchedBounds::default()
    });
    // Eight processes that share 64 MiB for longer than several looks take.
    let script = "import os, time
kept = bytearray(os.urandom(1 << 20) * 64)
children = []
for _ in range(8):
    child = os.fork()
    if child == 0:
        time.sleep(1)
        os._exit(0)
    children.append(child)
for child in children: os.waitpid(child, 0)";
    assert_eq!(launcher.run(&["python3", "-c", script]), exited(0));
    launcher.close();
}

#[test]
fn counts_the_shared_memory_of_a_process_that_hides_it() {
    let bounds = WatchedBounds {
        memory_bytes: Some(64 << 20),
        ..WatchedBounds::default()
    };
    let pr_set_dumpable = 4;
    let script = format!(
        "exec python3 -c '
import ctypes, mmap, time
ctypes.CDLL(None).prctl({pr_set_dumpable}, 0)
kept = mmap.mmap(-1, 128 << 20)
for _ in range(128): kept.write(bytes([1]) * (1 << 20))
time.sleep(10)'"
    );
    let (bound, used) = reached(bounds, &script);
    assert_eq!(bound, WatchedBound::Memory);
    // The watch may look at any time while it writes.
    assert!(used > 64 << 20, "{used}");
}

#[test]
fn watches_the_number_of_processes_and_threads() {
    let bounds = WatchedBounds {
        processes: Some(40),
        ..WatchedBounds::default()
    };
    // A command that lives on when the system gives it no more.
    let bomb = "while :; do sleep 1000 & done 2> /dev/null";
    let threads = "exec python3 -c \"import threading\nwhile True: threading.Thread(target=threading.Event().wait).start()\" 2> /dev/null";
    for script in [bomb, threads] {
        let (bound, used) = reached(bounds, script);
        assert_eq!(bound, WatchedBound::Processes);
        assert!(used > 40, "{used}");
    }
}

#[test]
fn watches_disk_space_and_logs() {
    let bounds = WatchedBounds {
        disk_bytes: Some(8 << 20),
        log_bytes: Some(1 << 20),
        ..WatchedBounds::default()
    };
    let (bound, used) = reached(
        bounds,
        "mkdir -m 0 a; mkdir b; head -c 9M /dev/zero > b/c; chmod 0 b; sleep 1000",
    );
    assert_eq!(bound, WatchedBound::Disk);
    assert!((8 << 20..16 << 20).contains(&used), "{used}");
    let (bound, used) = reached(bounds, "truncate -s 2T /proc/self/fd/2; sleep 1000");
    assert_eq!((bound, used), (WatchedBound::Log, 2 << 40));
}

#[test]
fn f7_a_launcher_has_a_share_of_the_users_limits() {
    let mut launcher = Launcher::start();
    let script = "cat /proc/sys/user/max_inotify_instances; cat /etc/passwd; exec python3 -c '
import ctypes
libc = ctypes.CDLL(None)
made = 0
while libc.inotify_init() >= 0: made += 1
print(made)'";
    assert_eq!(launcher.run(&["sh", "-c", script]), exited(0));
    let whole: u64 = fs::read_to_string("/proc/sys/user/max_inotify_instances")
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let stdout = launcher.stdout();
    let lines: Vec<&str> = stdout.lines().collect();
    let [_, passwd, made] = lines[..] else {
        panic!("{stdout}")
    };
    assert_eq!(passwd, "root:x:0:0::/:/bin/sh");
    assert_eq!(made.parse::<u64>().unwrap(), (whole / 8).max(16).min(whole));
    launcher.close();
}

#[test]
fn f7_tells_what_the_system_has_no_more_of() {
    let mut launcher = Launcher::start_below(&["sh", "-c", "ulimit -n 7; exec \"$0\""]);
    let answer = launcher.run(&["true"]);
    // Too many open files: the worker hands the Action back.
    let LaunchReport::Failed { errno: Some(24), .. } = answer.report else {
        panic!("{answer:?}");
    };
    assert!(!answer.reusable);
}
