//! Sandbox of the process that searches shared state caches.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bitzel_proto::graph::{Settings, Snapshot};

use super::Exporter;
use crate::error::FrontEndError;
use crate::layers::{ExternalSource, LayerGroup, SharedStateDescription};
use crate::shared_state::{FETCHED_ARCHIVES, SharedStateProgram};

/// Files with public keys in a directory of `GnuPG`. Private keys stay where they are.
const PUBLIC_KEYS: [&str; 4] = ["pubring.kbx", "pubring.gpg", "trustdb.gpg", "common.conf"];

impl Exporter<'_> {
    /// Creates the program that searches the shared state caches of the configuration. `None` if it has none.
    pub(crate) fn shared_state(
        &self,
        description: &SharedStateDescription,
        topdir: &Path,
        settings: &Settings,
        groups: &[LayerGroup],
        external: &[ExternalSource],
    ) -> Result<Option<SharedStateProgram>, FrontEndError> {
        let mirrors = if description.mirrors.is_empty() {
            // Set by a distribution, with the paths of the exporter's sandbox.
            let mirrors = settings.shared_state_mirrors.replace("\\n", " ");
            mirrors.replace("/work/build", &topdir.display().to_string())
        } else {
            description.mirrors.clone()
        };
        let directory = &description.directory;
        if mirrors.trim().is_empty() && !directory.is_dir() {
            return Ok(None);
        }
        let mut command = self.metadata_sandbox(groups, external)?;
        command.args(["--ro-bind".as_ref(), self.cache.snapshots().as_os_str()]);
        command.arg("/work/out/snapshots");
        command.args(["--ro-bind".as_ref(), self.python.path("shared_state").as_os_str()]);
        command.arg("/work/shared_state");
        // What a layer sets must not decide which directories of the user its code sees.
        let mut directories = mirror_directories(&description.mirrors);
        directories.push(directory.clone());
        for path in &directories {
            command.args(["--ro-bind-try".as_ref(), path.as_os_str(), path.as_os_str()]);
        }
        let work = tempfile::tempdir_in(self.cache.directory())
            .map_err(FrontEndError::io(self.cache.directory()))?;
        let (fetched, keys) = (work.path().join("archives"), work.path().join("keys"));
        fs::create_dir(&fetched).map_err(FrontEndError::io(&fetched))?;
        command.args(["--bind".as_ref(), fetched.as_os_str()]);
        command.arg(FETCHED_ARCHIVES);
        if copy_public_keys(&description.keys, &keys)? {
            command.args(["--bind".as_ref(), keys.as_os_str(), "/tmp/.gnupg".as_ref()]);
        }
        command.args(["--chdir", "/work/build"]);
        command.args(["/usr/bin/python3", "/work/shared_state/shared_state.py"]);
        let base = |snapshot: &Snapshot| (snapshot.multiconfig.clone(), snapshot.sha256.clone());
        Ok(Some(SharedStateProgram::new(
            &command,
            serde_json::json!({
                "bases": settings.base_snapshots.iter().map(base).collect::<BTreeMap<_, _>>(),
                "directory": directory,
                "mirrors": mirrors,
            }),
            work,
            fetched,
            directories,
            self.config.digest_function,
        )))
    }
}

/// Local directories in a value of `SSTATE_MIRRORS`: pairs of a pattern and a URL.
fn mirror_directories(mirrors: &str) -> Vec<PathBuf> {
    let urls = mirrors.split_whitespace().skip(1).step_by(2);
    urls.filter_map(|url| {
        let path = url.strip_prefix("file://")?;
        let path = path.split([';', '?']).next()?;
        let directory = path.split("/PATH").next()?;
        directory.starts_with('/').then(|| PathBuf::from(directory))
    })
    .collect()
}

/// Copies the public keys of a directory of `GnuPG`. False if it has none.
fn copy_public_keys(from: &Path, to: &Path) -> Result<bool, FrontEndError> {
    let files: Vec<_> = PUBLIC_KEYS
        .iter()
        .filter(|name| from.join(name).is_file())
        .collect();
    if files.is_empty() {
        return Ok(false);
    }
    fs::create_dir(to).map_err(FrontEndError::io(to))?;
    for name in files {
        fs::copy(from.join(name), to.join(name)).map_err(FrontEndError::io(from.join(name)))?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_mirrors_are_found() {
        let mirrors = "file://.* https://example.com/sstate/PATH;downloadfilename=PATH file://.* \
                       file:///srv/sstate/PATH  file://x file:///data/other/PATH;a=b";
        assert_eq!(
            mirror_directories(mirrors),
            [PathBuf::from("/srv/sstate"), PathBuf::from("/data/other")]
        );
    }
}
