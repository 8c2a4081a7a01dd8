//! `BuildGrid`: an execution service of another project, with a plain worker.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::listening_process::{ListeningProcess, free_address};
use crate::postgresql::PostgresqlServer;
use crate::program::project_directory;

/// Actions that the worker runs at the same time.
const SLOTS: &str = "2";

/// `BuildGrid` with its database and a worker of the Remote Workers API. Ended when it is dropped.
pub struct BuildGrid {
    address: SocketAddr,
    _worker: ListeningProcess,
    _server: ListeningProcess,
    _database: PostgresqlServer,
    _directory: TempDir,
}

/// User namespaces that the worker's processes may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserNamespaces {
    /// As many as the machine allows.
    Allowed,
    /// None, as on machines and in containers that forbid them.
    Forbidden,
}

impl BuildGrid {
    /// Starts all parts. `program` is `bgd`; `None` after a line for a skipped test if the database is missing.
    pub fn start_or_skip(program: &Path, namespaces: UserNamespaces) -> Option<Self> {
        Self::start(program, namespaces, &[SLOTS])
    }

    /// As [`Self::start_or_skip`], with a worker that runs nothing and reports success.
    pub fn start_null_or_skip(program: &Path, slots: &str) -> Option<Self> {
        Self::start(program, UserNamespaces::Allowed, &[slots, "null"])
    }

    fn start(program: &Path, namespaces: UserNamespaces, worker_arguments: &[&str]) -> Option<Self> {
        let database = PostgresqlServer::start_or_skip()?;
        let directory = TempDir::with_prefix("bitzel-buildgrid-").expect("a temporary directory");
        let address = free_address();
        let url = database_url(&database);
        let configuration = directory.path().join("buildgrid.yml");
        fs::write(
            &configuration,
            configuration_text(directory.path(), address, &url),
        )
        .expect("a file");
        let migrated = Command::new(program)
            .args(["migrate", "apply", &url])
            .output()
            .expect("bgd starts");
        assert!(
            migrated.status.success(),
            "bgd migrate failed:\n{}",
            String::from_utf8_lossy(&migrated.stderr)
        );
        let mut server = Command::new(program);
        server.args(["server", "start"]).arg(&configuration);
        let server = ListeningProcess::start(server, &[address]);
        let python = program.with_file_name("python");
        let mut worker = match namespaces {
            UserNamespaces::Allowed => Command::new(python),
            UserNamespaces::Forbidden => {
                let mut command = Command::new("unshare");
                let forbid = "echo 0 >/proc/sys/user/max_user_namespaces && exec \"$@\"";
                command.args(["--user", "--map-root-user", "sh", "-c", forbid, "sh"]);
                command.arg(python);
                command
            }
        };
        worker
            .arg(worker_program())
            .arg(address.to_string())
            .arg(directory.path().join("worker"))
            .args(worker_arguments);
        Some(Self {
            address,
            _worker: ListeningProcess::start(worker, &[]),
            _server: server,
            _database: database,
            _directory: directory,
        })
    }

    /// The value of `--remote`.
    pub fn url(&self) -> String {
        format!("grpc://{}", self.address)
    }
}

fn worker_program() -> PathBuf {
    project_directory().join("tests/engines/bots_worker.py")
}

/// The URL for `SQLAlchemy`.
fn database_url(database: &PostgresqlServer) -> String {
    let url = database.url();
    let mut words = url.split_whitespace();
    let socket = words
        .find_map(|word| word.strip_prefix("host="))
        .expect("the directory of the socket");
    format!("postgresql+psycopg2://bitzel@/postgres?host={socket}")
}

fn configuration_text(directory: &Path, address: SocketAddr, database: &str) -> String {
    let store = directory.join("store");
    fs::create_dir(&store).expect("a directory");
    let store = store.display();
    format!(
        r#"
server:
  - !channel
    address: "{address}"
    insecure-mode: true
connections:
  - !sql-connection &sql
    connection-string: "{database}"
    pool-size: 10
    max-overflow: 20
storages:
  - !disk-storage &store
    path: "{store}"
caches:
  - !lru-action-cache &results
    storage: *store
    max-cached-refs: 100000
    allow-updates: true
    cache-failed-actions: false
schedulers:
  - !sql-scheduler &scheduler
    sql: *sql
    storage: *store
    action-cache: *results
    property-set:
      !dynamic-property-set
      match-property-keys: []
    assigners:
      - !priority-age-assigner
        count: 1
        interval: 0.05
        priority-assignment-percentage: 100
instances:
  - name: ""
    services:
      - !action-cache
        cache: *results
      - !execution
        scheduler: *scheduler
      - !cas
        storage: *store
      - !bytestream
        storage: *store
thread-pool-size: 100
"#
    )
}
