//! Graph of the last build in a build directory, in which `bitzel log` finds the signatures of tasks.

use std::fs;
use std::path::{Path, PathBuf};

use bitzel_proto::DigestFunction;
use bitzel_proto::graph::TaskGraph;
use prost::Message as _;

use crate::command_error::CommandError;
use crate::directories::Directories;

/// Zstandard level: fast, because the graph is written in every build.
const COMPRESSION_LEVEL: i32 = 3;

fn path(directories: &Directories, build_directory: &Path) -> std::io::Result<PathBuf> {
    let build_directory = build_directory.canonicalize()?;
    let name = DigestFunction::Sha256
        .digest(build_directory.as_os_str().as_encoded_bytes())
        .hash_hex();
    Ok(directories.builds().join(format!("{name}.pb.zst")))
}

/// Saves the graph of a build. Replaces the file atomically.
pub(crate) fn save(
    directories: &Directories,
    build_directory: &Path,
    graph: &TaskGraph,
) -> Result<(), CommandError> {
    let path = path(directories, build_directory)?;
    fs::create_dir_all(directories.builds())?;
    let encoded = zstd::encode_all(graph.encode_to_vec().as_slice(), COMPRESSION_LEVEL)?;
    let mut file = tempfile::NamedTempFile::new_in(directories.builds())?;
    std::io::Write::write_all(&mut file, &encoded)?;
    file.persist(path)?;
    Ok(())
}

/// Loads the graph of the last build.
pub(crate) fn load(directories: &Directories, build_directory: &Path) -> Result<TaskGraph, CommandError> {
    let path = path(directories, build_directory)?;
    let encoded = fs::read(&path).map_err(|error| {
        CommandError::from(error)
            .context(format!(
                "there is no graph of a build in {}",
                build_directory.display()
            ))
            .hint("run bitzel build first")
    })?;
    Ok(TaskGraph::decode(
        zstd::decode_all(encoded.as_slice())?.as_slice(),
    )?)
}
