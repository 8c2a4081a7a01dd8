//! Description of a build directory, cached until one of its configuration files changes.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use bitzel_proto::DigestFunction;
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use super::{BUBBLEWRAP_ADVICE, Exporter, malformed, root};
use crate::atomic_file;
use crate::environment;
use crate::error::FrontEndError;
use crate::layers::{BuildDescription, ExternalSource, Layer, SharedStateDescription};

/// Where `devtool modify` notes source trees, relative to the build directory (as in `host/describe_build.py`).
const WORKSPACE_APPENDS: &str = "workspace/appends";

/// Description with the identity of the files that it was read from.
#[derive(Serialize, Deserialize)]
struct CachedDescription {
    identity: String,
    /// `conf/layer.conf` of each layer, with the digest of its content.
    layer_files: HashMap<PathBuf, String>,
    description: BuildDescription,
}

/// What the build directory's own files say: no code of a layer had a part in it.
#[derive(Deserialize)]
struct BuildSettings {
    bitbake_version: String,
    topdir: PathBuf,
    layers: Vec<PathBuf>,
    downloads: PathBuf,
    written: Vec<PathBuf>,
    external_sources: Vec<ExternalSource>,
    shared_state: SharedStateDescription,
}

impl Exporter<'_> {
    /// Reads the layers and the download directory; from the cache if no configuration file changed.
    pub(crate) async fn describe(&self, build_directory: &Path) -> Result<BuildDescription, FrontEndError> {
        let identity = self.description_identity(build_directory)?;
        let path = self.cache.description();
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
        atomic_file::replace(&path, &bytes).map_err(FrontEndError::io(&path))?;
        Ok(cached.description)
    }

    fn description_identity(&self, build_directory: &Path) -> Result<String, FrontEndError> {
        let conf = build_directory.join("conf");
        let mut files = Vec::new();
        for entry in fs::read_dir(&conf).map_err(FrontEndError::io(&conf))? {
            let path = entry.map_err(FrontEndError::io(&conf))?.path();
            files.push((path.clone(), digest_of(&path)));
        }
        // The source trees of devtool are not part of the configuration.
        if let Ok(entries) = fs::read_dir(build_directory.join(WORKSPACE_APPENDS)) {
            let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
            files.extend(paths.map(|path| (path.clone(), digest_of(&path))));
        }
        files.sort();
        let parts = serde_json::json!([
            self.python.digest,
            self.library,
            self.config.root.identity,
            files,
            environment::passed_through(&self.config.environment),
            self.config.environment.get("HOME"),
        ]);
        Ok(DigestFunction::Sha256
            .digest(parts.to_string().as_bytes())
            .hash_hex())
    }

    async fn read_description(&self, build_directory: &Path) -> Result<BuildDescription, FrontEndError> {
        let settings = self.run_describer("settings", build_directory).await?;
        let settings: BuildSettings = serde_json::from_slice(&settings).map_err(malformed)?;
        let collections = self.run_describer("collections", build_directory).await?;
        let collections: Vec<Vec<String>> = serde_json::from_slice(&collections).map_err(malformed)?;
        if collections.len() != settings.layers.len() {
            return Err(FrontEndError::Malformed {
                reason: format!(
                    "{} layers have {} lists of collections",
                    settings.layers.len(),
                    collections.len()
                ),
            });
        }
        let layers = settings.layers.into_iter().zip(collections);
        Ok(BuildDescription {
            bitbake_version: settings.bitbake_version,
            topdir: settings.topdir,
            layers: layers
                .map(|(path, collections)| Layer { path, collections })
                .collect(),
            downloads: settings.downloads,
            written: settings.written,
            external_sources: settings.external_sources,
            shared_state: settings.shared_state,
        })
    }

    /// Runs `host/describe_build.py` and returns its answer.
    async fn run_describer(&self, mode: &str, build_directory: &Path) -> Result<Vec<u8>, FrontEndError> {
        let mut command = self.describing_sandbox(mode, build_directory)?;
        let output = command
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|source| FrontEndError::Program {
                program: self.config.bubblewrap.display().to_string(),
                advice: BUBBLEWRAP_ADVICE,
                source,
            })?;
        if !output.status.success() {
            return Err(FrontEndError::BitBake {
                messages: String::from_utf8_lossy(&output.stderr).into_owned(),
            });
        }
        Ok(output.stdout)
    }
}

impl Exporter<'_> {
    /// Creates the call of bubblewrap that reads the configuration, which is code as all metadata is: a `conf/layer.conf` may
    /// hold Python. All of this machine is visible, at its own paths, because the configuration may include any file; in an
    /// image root all but its programs. Nothing can be written, there is no network, keys and sockets are hidden, and the
    /// environment has nothing that `BitBake` would not get.
    fn describing_sandbox(&self, mode: &str, build_directory: &Path) -> Result<Command, FrontEndError> {
        let mut command = Command::new(&self.config.bubblewrap);
        command.args(["--unshare-pid", "--unshare-ipc", "--unshare-net"]);
        command.args(["--die-with-parent", "--new-session"]);
        let (root, python) = match &self.config.root.directory {
            None => (Path::new("/"), self.config.python.as_path()),
            Some(root) => (root.as_path(), Path::new("/usr/bin/python3")),
        };
        root::bind_programs(&mut command, root)?;
        let home = self.config.environment.get("HOME").map(String::as_str);
        root::hide_secrets(&mut command, build_directory, home);
        command.args(["--proc", "/proc", "--dev", "/dev", "--clearenv"]);
        let fixed = [
            ("HOME", home.unwrap_or_default()),
            ("LC_ALL", "C.UTF-8"),
            ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
            ("PYTHONDONTWRITEBYTECODE", "1"),
        ];
        for (name, value) in fixed {
            command.args(["--setenv", name, value]);
        }
        for (name, value) in environment::passed_through(&self.config.environment) {
            command.args(["--setenv", &name, &value]);
        }
        // Of the user's environment, bwrap needs only the PATH in which it is found.
        command
            .env_clear()
            .envs(self.config.environment.get_key_value("PATH"));
        let library = self.library.to_owned();
        let own = [
            (library, "/run/bitzel/library"),
            (self.python.path("host"), "/run/bitzel/host"),
            (self.python.path("runner/shims"), "/run/bitzel/shims"),
        ];
        for (path, target) in own {
            command.arg("--ro-bind").arg(path).arg(target);
        }
        command.arg(python).args([
            "/run/bitzel/host/describe_build.py",
            mode,
            "/run/bitzel/library",
            "/run/bitzel/shims",
        ]);
        command.arg(build_directory);
        Ok(command)
    }
}

/// Digest of a small file; `None` if it cannot be read.
fn digest_of(path: &Path) -> Option<String> {
    fs::read(path)
        .ok()
        .map(|bytes| DigestFunction::Sha256.digest(&bytes).hash_hex())
}
