//! Files that a task has changed in a directory.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

/// Directories of published results in a recipe's private trees, in which no change is the user's.
const SYSROOTS: [&str; 2] = ["recipe-sysroot", "recipe-sysroot-native"];
/// Prefix of files by which the runner passes things on.
const RUNNER_PREFIX: &str = "bitzel-";

const OWNER_WRITE: u32 = 0o200;

/// State of a file that changes with every write: size, modification time in nanoseconds, and inode.
type FileState = (u64, i128, u64);

/// States of all files and links below some directories, by path relative to a common root.
pub(super) struct FileStates {
    root: PathBuf,
    states: BTreeMap<PathBuf, FileState>,
}

impl FileStates {
    /// Reads the trees `trees` of `root`, without the directories `excluded` and without sysroots.
    pub(super) fn read(root: &Path, trees: &[String], excluded: &[PathBuf]) -> io::Result<Self> {
        let mut states = BTreeMap::new();
        let mut pending: Vec<PathBuf> = trees.iter().map(|tree| root.join(tree)).collect();
        while let Some(directory) = pending.pop() {
            let entries = match fs::read_dir(&directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries?,
            };
            for entry in entries {
                let entry = entry?;
                let (path, name, metadata) = (entry.path(), entry.file_name(), entry.metadata()?);
                if metadata.is_dir() {
                    if !excluded.contains(&path) && !SYSROOTS.iter().any(|sysroot| name == *sysroot) {
                        pending.push(path);
                    }
                } else if (metadata.is_file() || metadata.is_symlink())
                    && !name.to_string_lossy().starts_with(RUNNER_PREFIX)
                {
                    let relative = path.strip_prefix(root).unwrap_or(&path).to_owned();
                    states.insert(relative, state(&metadata));
                }
            }
        }
        Ok(Self {
            root: root.to_owned(),
            states,
        })
    }

    /// Copies the files that are new or changed since `before` to `destination`, which is emptied first. A path there is
    /// relative to `prefix` if it is below it. Returns one line about each changed or deleted file.
    pub(super) fn copy_changes(
        &self,
        before: &Self,
        prefix: &str,
        destination: &Path,
    ) -> io::Result<Vec<String>> {
        let shown = |path: &Path| path.strip_prefix(prefix).unwrap_or(path).to_owned();
        let mut lines = vec![];
        let changed = self
            .states
            .iter()
            .filter(|(path, state)| before.states.get(*path) != Some(*state));
        let changed: Vec<&PathBuf> = changed.map(|(path, _)| path).collect();
        if !changed.is_empty() && destination.exists() {
            fs::remove_dir_all(destination)?;
        }
        for path in changed {
            let (from, to) = (self.root.join(path), destination.join(shown(path)));
            if let Some(parent) = to.parent() {
                fs::create_dir_all(parent)?;
            }
            if from.is_symlink() {
                symlink(fs::read_link(&from)?, &to)?;
            } else {
                fs::copy(&from, &to)?;
            }
            lines.push(format!("changed: {}", to.display()));
        }
        for path in before
            .states
            .keys()
            .filter(|path| !self.states.contains_key(*path))
        {
            lines.push(format!("deleted: {}", shown(path).display()));
        }
        Ok(lines)
    }
}

/// Allows the owner to write to the files below the trees `trees` of `root`: sources that come from a layer are read-only in
/// a sandbox, and people edit them.
pub(super) fn make_writable(root: &Path, trees: &[String]) -> io::Result<()> {
    let files = FileStates::read(root, trees, &[])?;
    for path in files.states.keys().map(|path| root.join(path)) {
        let metadata = fs::symlink_metadata(&path)?;
        let mode = metadata.permissions().mode();
        if metadata.is_file() && mode & OWNER_WRITE == 0 {
            fs::set_permissions(&path, Permissions::from_mode(mode | OWNER_WRITE))?;
        }
    }
    Ok(())
}

fn state(metadata: &fs::Metadata) -> FileState {
    let modified = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
    (metadata.size(), modified, metadata.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_new_and_changed_files_alone() {
        let place = tempfile::tempdir().expect("a directory");
        let (root, destination) = (place.path().join("root"), place.path().join("changes"));
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            fs::write(path, text).expect("a file");
        };
        for path in [
            "w/kept",
            "w/changed",
            "w/gone",
            "w/temp/log",
            "w/recipe-sysroot/x",
        ] {
            write(path, "before");
        }
        let read = || FileStates::read(&root, &["w".to_owned()], &[root.join("w/temp")]).expect("a tree");
        let before = read();
        for path in ["w/changed", "w/new/file", "w/temp/log", "w/recipe-sysroot/x"] {
            write(path, "after!");
        }
        fs::remove_file(root.join("w/gone")).expect("a file");
        let lines = read().copy_changes(&before, "w", &destination).expect("copies");
        let at = |path: &str| destination.join(path).display().to_string();
        assert_eq!(
            lines,
            [
                format!("changed: {}", at("changed")),
                format!("changed: {}", at("new/file")),
                "deleted: gone".to_owned()
            ]
        );
        assert_eq!(fs::read_to_string(at("new/file")).expect("a copy"), "after!");
        assert!(!destination.join("kept").exists());
    }
}
