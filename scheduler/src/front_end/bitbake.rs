//! Where `BitBake`'s library is.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use super::FrontEndConfig;
use super::error::FrontEndError;

/// The packages of `BitBake` that the sandbox gets. A virtual environment's library directory holds much more.
pub(crate) const PACKAGES: [&str; 3] = ["bb", "hashserv", "prserv"];

/// The directory that holds the package `bb`: what the user named, else beside `bitbake` in PATH, else what
/// Python can import.
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
    from_python(config).await
}

/// The library directory of a checkout, or the directory itself if it holds the package.
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
