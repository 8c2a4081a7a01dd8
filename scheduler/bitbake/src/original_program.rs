//! `BitBake`'s own program on the user's build directory.
//!
//! For requests that run no task and whose answer is text or files with the user's own paths (`-e`, `-g`, `-S`): the
//! answer is `BitBake`'s, byte for byte, because the program is. Its sandbox differs from the exporter's: all paths are the
//! user's, and everything is read-only except the build directory, the directories that the configuration names outside of
//! it (`TMPDIR`, `SSTATE_DIR`, …) and the directory of temporary files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use bitzel_cas::blocking::run_blocking;
use tokio::process::Command;

use super::bitbake;
use super::error::FrontEndError;
use super::export_cache::ExportCache;
use super::exporter::{BUBBLEWRAP_ADVICE, Exporter};
use super::front_end_config::FrontEndConfig;
use super::layers::BuildDescription;
use super::python_files::PythonFiles;

/// Directory of temporary files, which programs use without asking.
const TEMPORARY_FILES: &str = "/tmp";

/// Runs `bitbake` with these arguments on the build directory. It has this process's terminal and streams.
pub async fn run_original_program(
    config: &FrontEndConfig,
    arguments: &[String],
) -> Result<ExitStatus, FrontEndError> {
    let build_directory = config.canonical_build_directory()?;
    let library = bitbake::find(config).await?;
    let program = find_program(config, &library)?;
    let description = describe(config, &build_directory, &library).await?;
    for directory in &description.written {
        fs::create_dir_all(directory).map_err(FrontEndError::io(directory))?;
    }
    let mut command = sandbox(config, &build_directory, &program, &description);
    command
        .arg(&program)
        .args(arguments)
        .env_clear()
        .envs(environment(config, &build_directory, &program));
    command.status().await.map_err(|source| FrontEndError::Program {
        program: config.bubblewrap.display().to_string(),
        advice: BUBBLEWRAP_ADVICE,
        source,
    })
}

/// Finds the program that belongs to the library, by the path that the user has for it: the metadata can read that path
/// (`BB_CMDLINE`).
fn find_program(config: &FrontEndConfig, library: &Path) -> Result<PathBuf, FrontEndError> {
    let named = config
        .bitbake
        .as_ref()
        .map(|named| named.join("bin/bitbake"))
        .filter(|_| library.ends_with("lib"));
    let search_path = config.environment.get("PATH").map_or("", String::as_str);
    let in_path = std::env::split_paths(search_path).map(|directory| directory.join("bitbake"));
    let beside = library.parent().map(|checkout| checkout.join("bin/bitbake"));
    named
        .into_iter()
        .chain(in_path)
        .chain(beside.clone())
        .find(|program| {
            let own = beside.as_ref().and_then(|own| own.canonicalize().ok());
            own.is_some() && program.canonicalize().ok() == own
        })
        .and_then(|program| std::path::absolute(program).ok())
        .ok_or_else(|| FrontEndError::NoBitBakeProgram {
            library: library.to_owned(),
        })
}

/// Reads the configuration's directories. The lock of the export cache is held only meanwhile.
async fn describe(
    config: &FrontEndConfig,
    build_directory: &Path,
    library: &Path,
) -> Result<BuildDescription, FrontEndError> {
    let directory = config.cache_directory.clone();
    let cache = ExportCache::open(&directory, build_directory, &config.root.identity).await?;
    let python = run_blocking(move || PythonFiles::install(&directory)).await?;
    let exporter = Exporter {
        config,
        cache: &cache,
        python: &python,
        library,
        modules: &[],
    };
    exporter.describe(build_directory).await
}

/// Creates the call of bubblewrap, up to the program. `BitBake`'s server outlives its client by a moment to write its
/// caches, so the sandbox has no process namespace, whose end would kill it.
fn sandbox(
    config: &FrontEndConfig,
    build_directory: &Path,
    program: &Path,
    description: &BuildDescription,
) -> Command {
    let mut command = Command::new(&config.bubblewrap);
    command.args(["--ro-bind", "/", "/", "--dev-bind", "/dev", "/dev"]);
    command.args(["--bind", TEMPORARY_FILES, TEMPORARY_FILES]);
    // Checkouts in the directory of temporary files stay read-only too. Bubblewrap needs paths without symbolic links.
    let checkout = program.parent().and_then(Path::parent);
    let layers = description.layers.iter().map(|layer| layer.path.as_path());
    for path in layers.chain(checkout).filter_map(|path| path.canonicalize().ok()) {
        command.arg("--ro-bind").args([&path, &path]);
    }
    let written = description
        .written
        .iter()
        .filter_map(|path| path.canonicalize().ok());
    for path in std::iter::once(build_directory.to_owned()).chain(written) {
        command.arg("--bind").args([&path, &path]);
    }
    command.arg("--chdir").arg(build_directory).arg("--");
    command
}

/// The user's environment, with this `BitBake` and this build directory also where it names none or others.
fn environment(config: &FrontEndConfig, build_directory: &Path, program: &Path) -> Vec<(String, String)> {
    let mut environment = config.environment.clone();
    for name in ["BBPATH", "BUILDDIR"] {
        if let Some(value) = environment.get_mut(name) {
            *value = build_directory.display().to_string();
        }
    }
    let path = environment.entry("PATH".to_owned()).or_default();
    if let Some(programs) = program.parent()
        && !std::env::split_paths(path).any(|known| known == programs)
    {
        *path = format!("{}:{path}", programs.display());
    }
    environment.into_iter().collect()
}
