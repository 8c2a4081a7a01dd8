//! `bitzel root import`.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use bitzel_cas::blocking::run_blocking;
use bitzel_roots::{RootName, RootRecord, import};
use indicatif::{HumanBytes, HumanCount};

use crate::arguments::{RemoteArguments, RootImportArguments};
use crate::command_error::CommandError;
use crate::console;
use crate::directories::Directories;
use crate::root::store_connection;

/// Imports a root file system.
pub(super) async fn run(
    directories: &Directories,
    arguments: RootImportArguments,
) -> Result<ExitCode, CommandError> {
    let source = format!("bitzel root import {}", arguments.path.display());
    import_root(
        directories,
        &arguments.remote,
        &arguments.path,
        arguments.name,
        source,
    )
    .await
}

/// Puts the root file system at `path` into the store and prints its digest. The rest of the output goes to standard error.
pub(super) async fn import_root(
    directories: &Directories,
    remote: &RemoteArguments,
    path: &Path,
    name: Option<RootName>,
    source: String,
) -> Result<ExitCode, CommandError> {
    let roots = directories.roots();
    let (temporary, owned) = (roots.temporary()?, path.to_owned());
    let imported = run_blocking(move || import(&owned, &temporary))
        .await
        .map_err(|error| CommandError::from(error).context(format!("cannot import {}", path.display())))?;
    let connection = store_connection(directories, remote).await?;
    let uploaded = imported.upload(&*connection.store).await;
    connection.close().await?;
    let uploaded = uploaded?;
    let root = &imported.root;
    let record = RootRecord {
        source,
        files: root.file_count,
        directories: root.directory_count,
        symlinks: root.symlink_count,
        bytes: root.bytes,
        losses: imported.losses.clone(),
    };
    roots.record(root.digest, &record)?;
    if let Some(name) = name {
        roots.name(&name, root.digest)?;
    }
    console::print(&format!(
        "{} files of {}, {} directories, {} symlinks; {} blobs of {} were new to the store",
        HumanCount(root.file_count),
        HumanBytes(root.bytes),
        HumanCount(root.directory_count),
        HumanCount(root.symlink_count),
        HumanCount(uploaded.blobs),
        HumanBytes(uploaded.bytes),
    ));
    for line in imported.losses.lines() {
        console::print(&format!("not in the root: {line}"));
    }
    writeln!(io::stdout(), "{}", root.digest)?;
    Ok(ExitCode::SUCCESS)
}
