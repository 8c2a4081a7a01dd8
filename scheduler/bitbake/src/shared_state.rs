//! Shared state caches of the user's configuration, searched by the metadata's own functions.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bitzel_cas::BlobSource;
use bitzel_cas::blocking::run_blocking;
use bitzel_graph::walk::{ArchiveFile, ArchiveQuery, ArchiveSearch, SharedState};
use bitzel_proto::{Digest, DigestFunction};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Semaphore;

use crate::relative_path::stays_below;
use crate::sandbox_program::SandboxProgram;
use crate::stat_cache::hash_open_file;

/// Directory of archives from mirrors in the sandbox of the program.
pub(crate) const FETCHED_ARCHIVES: &str = "/work/out/shared-state";

/// Maximum length of an answer: one flag for each of very many tasks.
const MAX_ANSWER_BYTES: u64 = 16 << 20;

/// Maximum number of processes, each of which fetches one archive at a time.
const MAX_PROCESSES: usize = 4;

/// Program that searches shared state caches: `shared_state.py` in its sandbox.
#[derive(Debug, Clone)]
pub(crate) struct SharedStateProgram {
    program: SandboxProgram,
    settings: Value,
    /// Removed with the last clone.
    _work: Arc<TempDir>,
    fetched: PathBuf,
    /// Directories of the user's caches.
    directories: Vec<PathBuf>,
    digest_function: DigestFunction,
}

impl SharedStateProgram {
    /// Describes the program that `command` starts with these settings. It fetches archives into `fetched`, a directory in
    /// `work`, and finds others in `directories` of the user.
    pub(crate) fn new(
        command: &Command,
        settings: Value,
        work: TempDir,
        fetched: PathBuf,
        directories: Vec<PathBuf>,
        digest_function: DigestFunction,
    ) -> Self {
        Self {
            program: SandboxProgram::new(command),
            settings,
            _work: Arc::new(work),
            fetched,
            directories,
            digest_function,
        }
    }

    /// The caches that the program searches. Archives of native recipes are used only with `use_native`: they run in a root
    /// like that of the client.
    pub(crate) fn into_caches(self, use_native: bool) -> SharedStateCaches {
        let mut program = self;
        program.settings["use_native"] = use_native.into();
        SharedStateCaches {
            program,
            permits: Semaphore::new(MAX_PROCESSES),
            idle: Mutex::default(),
        }
    }

    /// Hashes a file that the program names by its path in the sandbox, and gives its path on this machine.
    ///
    /// The metadata has chosen the path, so only files of the user's caches and of those that were fetched are taken. An
    /// archive of a local mirror is a symlink among the fetched ones.
    fn hash(&self, path: &Path) -> io::Result<(Digest, PathBuf)> {
        let path = match path.strip_prefix(FETCHED_ARCHIVES) {
            Ok(below) => self.fetched.join(below),
            Err(_) => path.to_owned(),
        };
        let path = fs::canonicalize(path)?;
        let directories = self.directories.iter();
        for directory in directories.chain([&self.fetched]) {
            let Ok(directory) = fs::canonicalize(directory) else {
                continue;
            };
            let Ok(below) = path.strip_prefix(&directory) else {
                continue;
            };
            // The program runs on, and can put a symlink in place meanwhile.
            let opened = rustix::fs::openat2(
                fs::File::open(&directory)?,
                below,
                OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK,
                Mode::empty(),
                ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
            )?;
            let file = fs::File::from(opened);
            if !file.metadata()?.is_file() {
                return Err(io::Error::other(format!("{} is no file", path.display())));
            }
            return Ok((hash_open_file(file, self.digest_function)?, path));
        }
        let message = format!("{} is in no shared state cache of the user", path.display());
        Err(io::Error::other(message))
    }

    fn start(&self) -> io::Result<Process> {
        let mut child = self.program.start(&self.settings.to_string())?;
        let (requests, answers) = (child.stdin.take(), child.stdout.take());
        let (Some(requests), Some(answers)) = (requests, answers) else {
            return Err(io::Error::other("the process has no pipes"));
        };
        Ok(Process {
            requests,
            answers: BufReader::new(answers),
            _child: child,
        })
    }
}

/// A running program. It ends when its requests do.
struct Process {
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    _child: Child,
}

impl Process {
    async fn ask<T: DeserializeOwned>(&mut self, request: &Value) -> io::Result<T> {
        self.requests.write_all(format!("{request}\n").as_bytes()).await?;
        self.requests.flush().await?;
        let mut line = String::new();
        let mut bounded = (&mut self.answers).take(MAX_ANSWER_BYTES);
        if bounded.read_line(&mut line).await? == 0 {
            return Err(io::Error::other(
                "the process that searches shared state ended; its messages are above",
            ));
        }
        match serde_json::from_str(&line).map_err(io::Error::other)? {
            Answer::Error { error } => Err(io::Error::other(error)),
            Answer::Value(value) => Ok(value),
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Answer<T> {
    Error { error: String },
    Value(T),
}

#[derive(Deserialize)]
struct Search {
    found: Vec<bool>,
    summary: String,
}

#[derive(Deserialize)]
struct Fetch {
    /// Path relative to /work and path in the program's sandbox.
    files: Vec<(String, PathBuf)>,
    reason: String,
}

/// Shared state caches: `SSTATE_DIR` and `SSTATE_MIRRORS`.
pub(crate) struct SharedStateCaches {
    program: SharedStateProgram,
    permits: Semaphore,
    /// Processes without a request.
    idle: Mutex<Vec<Process>>,
}

impl SharedStateCaches {
    /// Asks an idle process, or a new one. A process that failed is not asked again.
    async fn ask<T: DeserializeOwned>(&self, request: Value) -> io::Result<T> {
        let _permit = self.permits.acquire().await.map_err(io::Error::other)?;
        let idle = self.idle.lock().ok().and_then(|mut idle| idle.pop());
        let mut process = match idle {
            Some(process) => process,
            None => self.program.start()?,
        };
        let answer = process.ask(&request).await?;
        if let Ok(mut idle) = self.idle.lock() {
            idle.push(process);
        }
        Ok(answer)
    }
}

#[async_trait]
impl SharedState for SharedStateCaches {
    async fn search(&self, queries: Vec<ArchiveQuery>) -> io::Result<ArchiveSearch> {
        let count = queries.len();
        let queries: Vec<Value> = queries.iter().map(to_json).collect();
        let answer: Search = self.ask(json!({"search": queries})).await?;
        if answer.found.len() != count {
            return Err(io::Error::other("an answer about other archives"));
        }
        Ok(ArchiveSearch {
            found: answer.found,
            summary: answer.summary,
        })
    }

    async fn fetch(&self, query: ArchiveQuery) -> io::Result<Option<Vec<ArchiveFile>>> {
        let answer: Fetch = self.ask(json!({"fetch": to_json(&query)})).await?;
        if !answer.reason.is_empty() {
            return Err(io::Error::other(answer.reason));
        }
        let mut files = Vec::new();
        for (path, source) in answer.files {
            if !stays_below(&path) {
                return Err(io::Error::other(format!("{path:?} is no place below /work")));
            }
            let program = self.program.clone();
            let (digest, source) = run_blocking(move || program.hash(&source)).await?;
            files.push(ArchiveFile {
                path,
                digest,
                source: BlobSource::File(source),
            });
        }
        Ok((!files.is_empty()).then_some(files))
    }
}

fn to_json(query: &ArchiveQuery) -> Value {
    json!({
        "recipe": query.recipe,
        "multiconfig": query.multiconfig,
        "task": query.task,
        "unihash": query.unihash,
        "hash_filename": query.hash_filename,
        "snapshot": query.snapshot,
    })
}

#[cfg(test)]
mod tests;
