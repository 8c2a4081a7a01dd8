//! Files, sockets and variables of the user in an executor inside the user's own program.

use std::io::Write as _;
use std::os::unix::net::UnixListener;

use bitzel_worker::UserAccess;

use crate::harness::*;

/// Reads a file, connects to a socket, and fails to change anything.
const SCRIPT: &str = "\
cat /run/bitzel/.netrc; echo ~bitzel $TOKEN
python3 -c 'import socket; s = socket.socket(socket.AF_UNIX); s.connect(\"/run/bitzel/agent\"); print(s.recv(9).decode())'
! echo x 2>/dev/null >> /run/bitzel/.netrc
! touch /run/bitzel/new 2>/dev/null
! ls /run/bitzel/.ssh 2>/dev/null";

/// A worker whose commands have a file, a socket and a variable of a user.
async fn of_user(user: &std::path::Path) -> Worker {
    std::fs::write(user.join("netrc"), "machine m\n").unwrap();
    let access = UserAccess {
        mounts: vec![
            (user.join("netrc"), ".netrc".to_owned()),
            (user.join("socket"), "agent".to_owned()),
        ],
        environment: vec![("TOKEN".to_owned(), "secret".to_owned())],
    };
    Worker::with(|config| config.user_access = Some(access)).await
}

/// Answers the first connection.
fn agent(user: &std::path::Path) -> std::thread::JoinHandle<()> {
    let listener = UnixListener::bind(user.join("socket")).unwrap();
    std::thread::spawn(move || listener.accept().unwrap().0.write_all(b"signed").unwrap())
}

#[tokio::test]
async fn commands_read_what_the_user_gives_them() {
    let user = tempfile::tempdir().unwrap();
    let agent = agent(user.path());
    let worker = of_user(user.path()).await;
    let result = worker
        .run(
            &directory([]),
            Run {
                script: SCRIPT,
                ..Run::default()
            },
        )
        .await;
    assert_eq!(
        worker.stdout(&result).await,
        "machine m\n/run/bitzel secret\nsigned\n"
    );
    agent.join().unwrap();
}

#[tokio::test]
async fn commands_of_others_have_no_home() {
    let worker = Worker::new().await;
    let script = "ls -A /run; echo ~bitzel";
    let result = worker
        .run(
            &directory([]),
            Run {
                script,
                ..Run::default()
            },
        )
        .await;
    assert_eq!(worker.stdout(&result).await, "/tmp\n");
}
