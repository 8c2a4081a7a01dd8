//! Search for `BitBake`'s library.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use super::error::FrontEndError;
use super::front_end_config::FrontEndConfig;

/// Parts of a checkout's `lib/` that neither the exporter nor a task imports: a web application.
const EXCLUDED_MODULES: [&str; 1] = ["toaster"];

/// Lists the modules and packages that the sandbox gets, `bb` among them: their paths and their names.
///
/// Of a checkout it is all of `lib/`, because releases before 2026 keep third-party modules there. A library directory of
/// Python holds packages of others too; there it is the record of the installed distribution (PEP 376).
pub(crate) fn modules(library: &Path) -> Result<Vec<(PathBuf, String)>, FrontEndError> {
    let mut recorded = None;
    let mut all = BTreeSet::new();
    for entry in fs::read_dir(library).map_err(FrontEndError::io(library))? {
        let entry = entry.map_err(FrontEndError::io(library))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".dist-info") {
            let record = fs::read_to_string(entry.path().join("RECORD")).unwrap_or_default();
            recorded = recorded.or_else(|| recorded_modules(&record));
        } else if !EXCLUDED_MODULES.contains(&name.as_str()) && name != "__pycache__" {
            all.insert(name);
        }
    }
    let names = recorded.unwrap_or(all);
    Ok(names
        .into_iter()
        .map(|name| (library.join(&name), name))
        .filter(|(path, _)| path.is_dir() || path.extension() == Some("py".as_ref()))
        .collect())
}

/// Top-level names in a distribution's record; `None` if the distribution does not hold `bb`.
fn recorded_modules(record: &str) -> Option<BTreeSet<String>> {
    let names: BTreeSet<_> = record
        .lines()
        .filter_map(|line| line.split([',', '/']).next())
        .filter(|name| !name.starts_with("..") && !name.ends_with(".dist-info") && *name != "bin")
        .map(str::to_owned)
        .collect();
    record
        .lines()
        .any(|line| line.starts_with("bb/__init__.py,"))
        .then_some(names)
}

/// Finds the directory that holds the package `bb`: the one that the user named, else the one of `bitbake` in PATH, else
/// the one that Python imports.
pub(crate) async fn find(config: &FrontEndConfig) -> Result<PathBuf, FrontEndError> {
    if let Some(named) = &config.bitbake {
        return library_of(named).ok_or_else(|| FrontEndError::BitBakeNotFound {
            tried: format!("{} holds neither lib/bb nor bb", named.display()),
        });
    }
    let search_path = config.environment.get("PATH").map_or("", String::as_str);
    let in_path = search_path
        .split(':')
        .map(|directory| Path::new(directory).join("bitbake"))
        .filter_map(|program| program.canonicalize().ok())
        .find_map(|program| library_of(program.parent()?.parent()?));
    if let Some(library) = in_path {
        return Ok(library);
    }
    if config.root.directory.is_some() {
        // The Python of this machine, if there is any, is not the one that would import it.
        return Err(FrontEndError::BitBakeNotFound {
            tried: "no `bitbake` in PATH".to_owned(),
        });
    }
    from_python(config).await
}

/// Library directory of a checkout, or the directory itself if it holds the package.
fn library_of(directory: &Path) -> Option<PathBuf> {
    [directory.join("lib"), directory.to_owned()]
        .into_iter()
        .find(|library| library.join("bb/__init__.py").is_file())
        .and_then(|library| library.canonicalize().ok())
}

async fn from_python(config: &FrontEndConfig) -> Result<PathBuf, FrontEndError> {
    let locate = "import importlib.util as u; s = u.find_spec('bb'); print(s.origin if s else '')";
    let output = Command::new(&config.python)
        .args(["-c", locate])
        .env_clear()
        .envs(&config.environment)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|source| FrontEndError::Program {
            program: config.python.display().to_string(),
            advice: "install Python 3.9 or later",
            source,
        })?;
    let origin = String::from_utf8_lossy(&output.stdout);
    Path::new(origin.trim())
        .parent()
        .and_then(Path::parent)
        .and_then(library_of)
        .ok_or_else(|| FrontEndError::BitBakeNotFound {
            tried: format!(
                "no `bitbake` in PATH, and {} cannot import bb",
                config.python.display()
            ),
        })
}

#[cfg(test)]
mod tests;
