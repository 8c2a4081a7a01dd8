//! The Python processes: one small one that reads where the layers are, and the exporter in its sandbox.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use bitzel_cas::DirectoryLock;
use bitzel_cas::blocking::run_blocking;
use bitzel_proto::DigestFunction;
use bitzel_proto::graph::TaskGraph;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::Command;

use super::error::FrontEndError;
use super::graph_cache::GRAPH_FORMAT_VERSION;
use super::layers::{BuildDescription, LayerGroup};
use super::python_files::PythonFiles;
use super::{ExportRequest, FrontEndConfig, FrontEndEvent, environment};

/// The advice when bubblewrap cannot be started.
const BUBBLEWRAP_ADVICE: &str = "install bubblewrap (Debian: apt install bubblewrap)";

/// The exit code with which the exporter says that `BitBake` refused.
const REFUSED: i32 = 1;

/// One build directory's part of the cache, locked against a second bitzel.
pub(crate) struct Session {
    cache: PathBuf,
    directory: PathBuf,
    /// Held until the session is dropped.
    _lock: DirectoryLock,
}

impl Session {
    pub(crate) async fn open(cache: &Path, build_directory: &Path) -> Result<Self, FrontEndError> {
        let cache = cache.to_owned();
        let name = DigestFunction::Sha256
            .digest(build_directory.as_os_str().as_encoded_bytes())
            .hash_hex();
        run_blocking(move || {
            let directory = cache.join("builds").join(&name[..16]);
            for path in [
                directory.join("bitbake-cache"),
                cache.join("snapshots"),
                cache.join("recipes"),
            ] {
                fs::create_dir_all(&path).map_err(FrontEndError::io(path))?;
            }
            let lock = DirectoryLock::wait(&directory).map_err(FrontEndError::io(&directory))?;
            Ok(Self {
                cache,
                directory,
                _lock: lock,
            })
        })
        .await
    }

    pub(crate) fn snapshots(&self) -> PathBuf {
        self.cache.join("snapshots")
    }

    pub(crate) fn recipes(&self) -> PathBuf {
        self.cache.join("recipes")
    }

    pub(crate) fn configuration(&self) -> PathBuf {
        self.directory.join("conf")
    }

    pub(crate) fn stat_cache(&self) -> PathBuf {
        self.directory.join("stat-cache.json")
    }

    fn description(&self) -> PathBuf {
        self.directory.join("description.json")
    }
}

/// A description with what it was read from.
#[derive(Serialize, Deserialize)]
struct CachedDescription {
    identity: String,
    /// `conf/layer.conf` of each layer, with the digest of its contents.
    layer_files: HashMap<PathBuf, String>,
    description: BuildDescription,
}

/// Compiled Python: places relative to `/work`, each with the SHA-256 under which the snapshot directory has it.
pub(crate) type Bytecode = Vec<(String, String)>;

/// What the exporter gave.
pub(crate) struct Exported {
    pub(crate) graph: TaskGraph,
    /// Compiled Python for every task's sandbox.
    pub(crate) bytecode: Bytecode,
    /// False when the graph depends on something outside the metadata, such as the newest revision upstream.
    pub(crate) cacheable: bool,
}

/// Runs Python.
pub(crate) struct Exporter<'a> {
    pub(crate) config: &'a FrontEndConfig,
    pub(crate) session: &'a Session,
    pub(crate) python: &'a PythonFiles,
    pub(crate) library: &'a Path,
    /// See [`super::bitbake::modules`].
    pub(crate) modules: &'a [(PathBuf, String)],
}

impl Exporter<'_> {
    /// Where the layers and downloads are; from the cache if no configuration file changed.
    pub(crate) async fn describe(&self, build_directory: &Path) -> Result<BuildDescription, FrontEndError> {
        let identity = self.description_identity(build_directory)?;
        let path = self.session.description();
        let cached = fs::read(&path)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok());
        if let Some(CachedDescription {
            identity: cached_identity,
            layer_files,
            description,
        }) = cached
            && identity == cached_identity
            && layer_files
                .iter()
                .all(|(file, digest)| digest_of(file).as_ref() == Some(digest))
        {
            return Ok(description);
        }
        let description = self.read_description(build_directory).await?;
        let layer_files = description
            .layers
            .iter()
            .map(|layer| layer.path.join("conf/layer.conf"))
            .filter_map(|file| digest_of(&file).map(|digest| (file, digest)))
            .collect();
        let cached = CachedDescription {
            identity,
            layer_files,
            description,
        };
        let bytes = serde_json::to_vec(&cached).map_err(malformed)?;
        fs::write(&path, bytes).map_err(FrontEndError::io(&path))?;
        Ok(cached.description)
    }

    fn description_identity(&self, build_directory: &Path) -> Result<String, FrontEndError> {
        let conf = build_directory.join("conf");
        let mut files = Vec::new();
        for entry in fs::read_dir(&conf).map_err(FrontEndError::io(&conf))? {
            let path = entry.map_err(FrontEndError::io(&conf))?.path();
            files.push((path.clone(), digest_of(&path)));
        }
        files.sort();
        let parts = serde_json::json!([
            self.python.digest,
            self.library,
            files,
            environment::passed_through(&self.config.environment),
            self.config.environment.get("HOME"),
        ]);
        Ok(DigestFunction::Sha256
            .digest(parts.to_string().as_bytes())
            .hash_hex())
    }

    async fn read_description(&self, build_directory: &Path) -> Result<BuildDescription, FrontEndError> {
        let output = Command::new(&self.config.python)
            .arg(self.python.path("host/describe_build.py"))
            .args([self.library, &self.python.path("runner/shims"), build_directory])
            .env_clear()
            .envs(&self.config.environment)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|source| FrontEndError::Program {
                program: self.config.python.display().to_string(),
                advice: "install Python 3.9 or later",
                source,
            })?;
        if !output.status.success() {
            return Err(FrontEndError::BitBake {
                messages: String::from_utf8_lossy(&output.stderr).into_owned(),
            });
        }
        serde_json::from_slice(&output.stdout).map_err(malformed)
    }

    /// Runs `BitBake` and reads the graph.
    pub(crate) async fn export(
        &self,
        request: &ExportRequest,
        groups: &[LayerGroup],
    ) -> Result<Exported, FrontEndError> {
        let output = tempfile::tempdir_in(&self.session.directory)
            .map_err(FrontEndError::io(&self.session.directory))?;
        let request_file = output.path().join("request.json");
        let request = serde_json::json!({
            "request": request,
            "source_date_epoch": self.config.source_date_epoch,
            "code_digest": self.python.digest,
        });
        fs::write(&request_file, request.to_string()).map_err(FrontEndError::io(&request_file))?;
        for name in ["snapshots", "recipes"] {
            fs::create_dir(output.path().join(name)).map_err(FrontEndError::io(output.path()))?;
        }
        let cacheable = self.run(self.sandbox(output.path(), groups)).await?;
        let (graph_file, bytecode_file) = (
            output.path().join("graph.json"),
            output.path().join("bytecode.json"),
        );
        let (graph, bytecode) = run_blocking(move || {
            Ok((
                read_json::<TaskGraph>(&graph_file)?,
                read_json::<Bytecode>(&bytecode_file)?,
            ))
        })
        .await?;
        if graph.format_version != GRAPH_FORMAT_VERSION {
            return Err(FrontEndError::Malformed {
                reason: format!("format version {}", graph.format_version),
            });
        }
        Ok(Exported {
            graph,
            bytecode,
            cacheable,
        })
    }

    /// Runs the exporter and passes on what it says. Gives whether its graph may be cached.
    async fn run(&self, mut command: Command) -> Result<bool, FrontEndError> {
        let mut child = command.spawn().map_err(|source| FrontEndError::Program {
            program: self.config.bubblewrap.display().to_string(),
            advice: BUBBLEWRAP_ADVICE,
            source,
        })?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let phases = async {
            let mut cacheable = true;
            if let Some(stdout) = stdout {
                let mut lines = BufReader::new(stdout).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    match line.as_str() {
                        "uncacheable" => cacheable = false,
                        phase => (self.config.observer)(FrontEndEvent::Phase(phase)),
                    }
                }
            }
            cacheable
        };
        let messages = async {
            let mut messages = Vec::new();
            if let Some(mut stderr) = stderr {
                // What was read before an error is still worth showing.
                let _ = stderr.read_to_end(&mut messages).await;
            }
            String::from_utf8_lossy(&messages).into_owned()
        };
        let (cacheable, messages, status) = tokio::join!(phases, messages, child.wait());
        let status = status.map_err(FrontEndError::io(&self.config.bubblewrap))?;
        if status.code() == Some(REFUSED) {
            return Err(FrontEndError::BitBake { messages });
        }
        if !status.success() {
            return Err(FrontEndError::BitBake {
                messages: format!("{messages}\nthe BitBake exporter ended with {status}"),
            });
        }
        for line in messages.lines() {
            (self.config.observer)(FrontEndEvent::Message(line));
        }
        Ok(cacheable)
    }

    /// The bubblewrap call. Network stays, because metadata may ask upstream for revisions while it is parsed.
    fn sandbox(&self, output: &Path, groups: &[LayerGroup]) -> Command {
        let mut command = Command::new(&self.config.bubblewrap);
        command.args(["--unshare-user", "--uid", "1000", "--gid", "1000"]);
        command.args([
            "--unshare-pid",
            "--unshare-ipc",
            "--unshare-uts",
            "--hostname",
            "bitzel",
        ]);
        command.args(["--die-with-parent", "--new-session", "--ro-bind", "/usr", "/usr"]);
        for name in ["bin", "lib", "lib64", "sbin"] {
            command.args(["--symlink", &format!("usr/{name}"), &format!("/{name}")]);
        }
        command.args(["--ro-bind", "/etc", "/etc", "--proc", "/proc", "--dev", "/dev"]);
        command.args(["--tmpfs", "/tmp", "--tmpfs", "/work"]);
        for group in groups {
            for (directory, place) in group.directories() {
                command
                    .arg("--ro-bind")
                    .arg(directory)
                    .arg(format!("/work/{place}"));
                hide_version_control(&mut command, directory, &place);
            }
        }
        let mut bind = |kind: &str, source: &Path, place: &str| {
            command.arg(kind).arg(source).arg(format!("/work/{place}"));
        };
        for (path, name) in self.modules {
            bind("--ro-bind", path, &format!("bitbake/lib/{name}"));
        }
        bind("--ro-bind", &self.session.configuration(), "build/conf");
        bind(
            "--bind",
            &self.session.directory.join("bitbake-cache"),
            "build/cache",
        );
        bind("--bind", output, "out");
        bind("--bind", &self.session.snapshots(), "out/snapshots");
        bind("--bind", &self.session.recipes(), "out/recipes");
        bind("--ro-bind", &self.python.path("exporter"), "exporter");
        bind("--ro-bind", &self.python.path("runner"), "bitzel");
        command.args([
            "--dir",
            "/work/downloads",
            "--dir",
            "/work/build/tmp",
            "--clearenv",
        ]);
        let fixed = [
            ("HOME", "/tmp"),
            ("LANG", "C.UTF-8"),
            ("LC_ALL", "C.UTF-8"),
            ("LOGNAME", "bitzel"),
            ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
            ("SHELL", "/bin/sh"),
            ("USER", "bitzel"),
            ("PYTHONDONTWRITEBYTECODE", "1"),
            // Sets of strings then have one order everywhere, also where metadata forgot to sort.
            ("PYTHONHASHSEED", "0"),
            (
                "PYTHONPATH",
                "/work/bitbake/lib:/work/exporter:/work/bitzel:/work/bitzel/shims",
            ),
        ];
        for (name, value) in fixed {
            command.args(["--setenv", name, value]);
        }
        for (name, value) in environment::passed_through(&self.config.environment) {
            command.args(["--setenv", &name, &value]);
        }
        command.args([
            "--chdir",
            "/work/build",
            "/usr/bin/python3",
            "/work/exporter/export.py",
        ]);
        command.arg("/work/out/request.json");
        // bwrap itself needs nothing of the user's environment but a PATH to be found in.
        command
            .env_clear()
            .envs(self.config.environment.get_key_value("PATH"));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }
}

/// Hides a checkout's history: metadata that records its own revision would give another graph for each commit and
/// each kind of checkout.
fn hide_version_control(command: &mut Command, directory: &Path, place: &str) {
    let git = directory.join(".git");
    let hidden = format!("/work/{place}/.git");
    if git.is_dir() {
        command.args(["--tmpfs", &hidden]);
    } else if git.exists() {
        command.args(["--ro-bind", "/dev/null", &hidden]);
    }
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, FrontEndError> {
    let bytes = fs::read(path).map_err(FrontEndError::io(path))?;
    serde_json::from_slice(&bytes).map_err(malformed)
}

/// The digest of a small file; `None` if it cannot be read.
fn digest_of(path: &Path) -> Option<String> {
    fs::read(path)
        .ok()
        .map(|bytes| DigestFunction::Sha256.digest(&bytes).hash_hex())
}

#[expect(clippy::needless_pass_by_value, reason = "the form that map_err calls")]
fn malformed(error: serde_json::Error) -> FrontEndError {
    FrontEndError::Malformed {
        reason: error.to_string(),
    }
}
