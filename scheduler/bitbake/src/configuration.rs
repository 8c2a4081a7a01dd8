//! Configuration directory that the sandbox gets in place of the user's `conf/`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use super::error::FrontEndError;

/// Name of the file that is read after `bitbake.conf` and everything that it includes.
const POSTFILE: &str = "bitzel.conf";

/// Notes of set-up scripts that hold the client's paths and that BitBake does not read.
const EXCLUDED_FILES: [&str; 2] = ["templateconf.cfg", "sanity_info"];

/// Value of TMPDIR as Python code that reads the user's own value.
///
/// Paths of trees must not depend on the user's name for the directory, so the one of the default configuration is fixed.
/// A multiconfig that shares it still shares it. One with a directory of its own below the build directory keeps that
/// name, because the metadata of other configurations may refer to it.
const TEMPORARY_DIRECTORY: &str = "(lambda own, mc: (setattr(bb, 'bitzel_default_tmpdir', own) or '/work/build/tmp') \
     if mc in ('', 'default') else '/work/build/tmp' if own == bb.bitzel_default_tmpdir else own \
     if own.startswith('/work/build/') else '/work/build/tmp-' + mc)(d.getVar('TMPDIR'), d.getVar('BB_CURRENT_MC') or '')";

/// Content of the file of fixed values: paths, which bitzel assigns; services that bitzel replaces (hash equivalence,
/// shared state); and values that would differ between two machines with the same metadata.
fn postfile(source_date_epoch: u64) -> String {
    format!(
        r#"# Written by bitzel.
TMPDIR := "${{@{TEMPORARY_DIRECTORY}}}"
DL_DIR = "/work/downloads"
SSTATE_DIR = "/work/build/sstate-cache"
BITZEL_SSTATE_MIRRORS := "${{@d.getVar('SSTATE_MIRRORS') or ''}}"
BB_HASHCONFIG_IGNORE_VARS:append = " BITZEL_SSTATE_MIRRORS"
SSTATE_MIRRORS = ""
PERSISTENT_DIR = "/work/build/cache"
CACHE = "/work/build/cache/parse"
BB_SIGNATURE_HANDLER := "${{@{{'OEEquivHash': 'OEBasicHash', 'noop': 'basichash'}}.get(d.getVar('BB_SIGNATURE_HANDLER') or 'noop', d.getVar('BB_SIGNATURE_HANDLER'))}}"
BB_HASHSERVE = ""
BB_HASHSERVE_UPSTREAM = ""
PRSERV_HOST = ""
NATIVELSBSTRING = "universal"
DATE := "${{@time.strftime('%Y%m%d', time.gmtime({source_date_epoch}))}}"
TIME := "${{@time.strftime('%H%M%S', time.gmtime({source_date_epoch}))}}"
BUILDNAME = "${{DATE}}${{TIME}}"
"#
    )
}

/// Writes the directory. Files with unchanged content are not touched, so that BitBake's caches stay valid.
///
/// `layers` lists each entry of the user's BBLAYERS with its path in the sandbox.
pub(crate) fn write(
    user_conf: &Path,
    conf: &Path,
    layers: &[(PathBuf, String)],
    source_date_epoch: u64,
) -> Result<(), FrontEndError> {
    let mut files = BTreeMap::new();
    read_files(user_conf, Path::new(""), &mut files)?;
    let bblayers = user_conf.join("bblayers.conf");
    let text = fs::read_to_string(&bblayers).map_err(FrontEndError::io(&bblayers))?;
    files.insert(
        PathBuf::from("bblayers.conf"),
        bblayers_conf(text, layers).into_bytes(),
    );
    files.insert(PathBuf::from(POSTFILE), postfile(source_date_epoch).into_bytes());
    remove_others(conf, Path::new(""), &files)?;
    for (name, contents) in files {
        let path = conf.join(name);
        if fs::read(&path).is_ok_and(|existing| existing == contents) {
            continue;
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(FrontEndError::io(parent))?;
        }
        fs::write(&path, contents).map_err(FrontEndError::io(&path))?;
    }
    Ok(())
}

/// The user's own file with the client's paths replaced, and then the layers by their paths in the sandbox.
fn bblayers_conf(mut text: String, layers: &[(PathBuf, String)]) -> String {
    let mut longest_first: Vec<_> = layers.iter().collect();
    longest_first.sort_by_key(|(path, _)| std::cmp::Reverse(path.as_os_str().len()));
    for (path, sandbox_path) in longest_first {
        text = text.replace(&path.display().to_string(), &format!("/work/{sandbox_path}"));
    }
    text.push_str("\n# Written by bitzel.\nunset BBLAYERS\nBBLAYERS = \"");
    for (_, sandbox_path) in layers {
        // Writing to a String cannot fail.
        let _ = write!(text, " /work/{sandbox_path}");
    }
    text.push_str("\"\n");
    text
}

/// Reads all files below a directory.
fn read_files(
    directory: &Path,
    relative: &Path,
    files: &mut BTreeMap<PathBuf, Vec<u8>>,
) -> Result<(), FrontEndError> {
    for entry in fs::read_dir(directory).map_err(FrontEndError::io(directory))? {
        let entry = entry.map_err(FrontEndError::io(directory))?;
        let (path, name) = (entry.path(), relative.join(entry.file_name()));
        // Follows symlinks: a link to a shared local.conf is the user's local.conf.
        let metadata = fs::metadata(&path).map_err(FrontEndError::io(&path))?;
        if metadata.is_dir() {
            read_files(&path, &name, files)?;
        } else if metadata.is_file() && !EXCLUDED_FILES.iter().any(|excluded| name == Path::new(excluded)) {
            files.insert(name, fs::read(&path).map_err(FrontEndError::io(&path))?);
        }
    }
    Ok(())
}

/// Removes all files that are not in `files`.
fn remove_others(
    conf: &Path,
    relative: &Path,
    files: &BTreeMap<PathBuf, Vec<u8>>,
) -> Result<(), FrontEndError> {
    let directory = conf.join(relative);
    fs::create_dir_all(&directory).map_err(FrontEndError::io(&directory))?;
    for entry in fs::read_dir(&directory).map_err(FrontEndError::io(&directory))? {
        let entry = entry.map_err(FrontEndError::io(&directory))?;
        let name = relative.join(entry.file_name());
        if entry.path().is_dir() {
            remove_others(conf, &name, files)?;
        } else if !files.contains_key(&name) {
            fs::remove_file(entry.path()).map_err(FrontEndError::io(entry.path()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
