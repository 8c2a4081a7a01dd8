//! Tool chains of real builds under the filter of system calls: each builds, tests and runs a small program that starts
//! threads and processes.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::*;

mod sources;

/// Path of every command, after the directories of its tool chain.
const SYSTEM_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Tool chain of this machine.
#[derive(Default)]
struct ToolChain {
    /// Directories with its programs.
    programs: Vec<PathBuf>,
    /// Directories outside of `/usr` that its programs read.
    host_directories: Vec<PathBuf>,
}

impl ToolChain {
    /// A tool chain in one directory.
    fn in_directory(directory: PathBuf) -> Self {
        Self {
            programs: vec![directory.join("bin")],
            host_directories: outside_of_usr(directory).into_iter().collect(),
        }
    }

    /// Runs a script with this tool chain and returns what it printed. It has to succeed.
    async fn printed(self, tree: Node, script: &str) -> String {
        let Self {
            programs,
            host_directories,
        } = self;
        let worker = Worker::with(|config| config.host_directories = host_directories).await;
        let mut path: Vec<String> = programs.iter().map(|path| path.display().to_string()).collect();
        path.push(SYSTEM_PATH.into());
        let run = Run {
            script,
            environment: &[("PATH", &path.join(":"))],
            ..Run::default()
        };
        let result = worker.run(&tree, run).await;
        worker.stdout(&result).await
    }
}

fn outside_of_usr(path: PathBuf) -> Option<PathBuf> {
    (!path.starts_with("/usr")).then_some(path)
}

/// What a program of this machine prints, or `None` if there is no such program.
fn asked(program: &str, arguments: &[&str]) -> Option<PathBuf> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().into())
}

/// The real path of a program in `PATH`.
fn found(program: &str) -> Option<PathBuf> {
    asked("sh", &["-c", &format!("command -v {program}")])?
        .canonicalize()
        .ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn rust_builds_tests_and_runs() {
    let Some(directory) = asked("rustc", &["--print", "sysroot"]) else {
        println!("SKIPPED: rust_builds_tests_and_runs: rustc is not installed");
        return;
    };
    let script = "export CARGO_HOME=/tmp/cargo\n\
                  cargo build --offline --quiet -j 4\n\
                  cargo test --offline --quiet -j 4 >&2\n\
                  ./target/debug/program";
    let printed = ToolChain::in_directory(directory).printed(sources::rust(), script);
    assert_eq!(
        printed.await,
        "built by a script: 4 threads counted 4000, child said hello\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn go_builds_tests_and_runs() {
    let Some(directory) = asked("go", &["env", "GOROOT"]) else {
        println!("SKIPPED: go_builds_tests_and_runs: go is not installed");
        return;
    };
    let script = "export GOCACHE=/tmp/go-cache GOPATH=/tmp/go GOPROXY=off GOTOOLCHAIN=local GOFLAGS=-mod=mod\n\
                  go test -vet=off . >&2\n\
                  go build -o program .\n\
                  ./program";
    let printed = ToolChain::in_directory(directory).printed(sources::go(), script);
    assert_eq!(
        printed.await,
        "C says 42, 8 routines counted 8000, child said hello\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn java_compiles_and_runs() {
    let Some(compiler) = found("javac") else {
        println!("SKIPPED: java_compiles_and_runs: javac is not installed");
        return;
    };
    let directory = compiler.ancestors().nth(2).unwrap().to_owned();
    let mut tool_chain = ToolChain::in_directory(directory.clone());
    // Debian keeps the configuration in /etc.
    let configuration = directory.join("conf/security/java.security").canonicalize();
    let configuration = configuration
        .ok()
        .and_then(|path| Some(path.ancestors().nth(2)?.to_owned()));
    tool_chain
        .host_directories
        .extend(configuration.filter(|path| path.starts_with("/etc")));
    let script = "javac -d classes Program.java\n\
                  for collector in Serial Parallel G1; do\n\
                      java -XX:+Use${collector}GC -Xmx64m -cp classes Program\n\
                  done";
    let line = "compiled code and 4 threads counted 4000000, child said hello, server said hello\n";
    let printed = tool_chain.printed(sources::java(), script).await;
    assert_eq!(printed, line.repeat(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn node_runs_workers_and_children() {
    let Some(program) = found("node") else {
        println!("SKIPPED: node_runs_workers_and_children: node is not installed");
        return;
    };
    let directory = program.ancestors().nth(2).unwrap().to_owned();
    let printed = ToolChain::in_directory(directory).printed(sources::node(), "node program.js");
    let expected = "workers counted 4000\nspawned hello\nforked hello\nserver said hello\nread program.js\n";
    assert_eq!(printed.await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn make_runs_compilers_side_by_side() {
    let script = "make --silent -j4 -O program threads\n./program\n./threads";
    let printed = ToolChain::default().printed(sources::make(), script).await;
    assert_eq!(printed, "sum 120\n4 threads counted 4000\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn sanitizers_find_what_they_look_for() {
    // The search for leaks traces the program from a task that shares its memory.
    let script = "cc -g -fsanitize=address -o leak leak.c\n\
                  cc -g -fsanitize=thread -o race race.c -pthread\n\
                  ./leak 2> leaks && exit 1\n\
                  ./race 2> races && exit 1\n\
                  grep -o 'detected memory leaks' leaks\n\
                  grep -o 'data race' races | head -n 1";
    let printed = ToolChain::default().printed(sources::sanitizers(), script).await;
    assert_eq!(printed, "detected memory leaks\ndata race\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn python_shares_memory_and_semaphores() {
    let printed = ToolChain::default().printed(sources::python(), "/usr/bin/python3 program.py");
    let line = |method| format!("{method}: pool 30, counter 4000, shared b'hello', queue 4, executor 6\n");
    assert_eq!(printed.await, ["fork", "spawn", "forkserver"].map(line).concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn pseudo_pretends_to_be_root() {
    if !Path::new("/usr/bin/pseudo").exists() {
        println!("SKIPPED: pseudo_pretends_to_be_root: pseudo is not installed");
        return;
    }
    let script = "export PSEUDO_PREFIX=/usr PSEUDO_LOCALSTATEDIR=$PWD/state PSEUDO_PASSWD=$PWD\n\
                  pseudo sh -c 'mknod device c 1 3 && touch file && chown 12:34 file && tar -cf archive.tar device file \
                  && stat -c \"%n %F %u:%g\" device file'\n\
                  pseudo -S\n\
                  tar -tvf archive.tar | cut -d ' ' -f 1,2";
    let printed = ToolChain::default().printed(directory([]), script).await;
    let expected = "device character special file 0:0\nfile regular empty file 12:34\n\
                    crw-r--r-- root/root\n-rw-r--r-- 12/34\n";
    assert_eq!(printed, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn debuggers_trace_their_children() {
    if !Path::new("/usr/bin/strace").exists() {
        println!("SKIPPED: debuggers_trace_their_children: strace is not installed");
        return;
    }
    let script = "strace -f -e trace=execve -o trace sh -c '/bin/true; echo traced'\ngrep -c /bin/true trace";
    let printed = ToolChain::default().printed(directory([]), script).await;
    assert_eq!(printed, "traced\n2\n");
}
