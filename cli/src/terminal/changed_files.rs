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
    ///
    /// The task has chosen names and links. So links come after all files: no file is written through one.
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
        if !changed.is_empty() {
            empty_directory(destination)?;
        }
        let is_link = |path: &&PathBuf| self.root.join(path).is_symlink();
        let (links, files): (Vec<&PathBuf>, Vec<&PathBuf>) = changed.into_iter().partition(is_link);
        for path in files {
            let to = destination.join(shown(path));
            create_parents(&to)?;
            fs::copy(self.root.join(path), &to)?;
            lines.push(format!("changed: {}", to.display()));
        }
        for path in links {
            let (target, to) = (
                fs::read_link(self.root.join(path))?,
                destination.join(shown(path)),
            );
            // Another tree has files at this path, which people rather want to see.
            if create_parents(&to).and_then(|()| symlink(target, &to)).is_ok() {
                lines.push(format!("changed: {}", to.display()));
            } else {
                lines.push(format!("changed, but not copied: {}", path.display()));
            }
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

/// Makes an empty directory, and removes what was there. A link in its place is removed, not followed.
fn empty_directory(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path)?,
        Ok(_) => fs::remove_file(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    create_parents(path)?;
    fs::create_dir(path)
}

fn create_parents(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)
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

    #[test]
    fn f20_changes_lead_to_no_other_directory() {
        let place = tempfile::tempdir().expect("a directory");
        let (root, destination) = (place.path().join("root"), place.path().join("changes/name"));
        let other = place.path().join("other");
        for directory in [
            &root.join("w"),
            &root.join("link"),
            &other,
            &place.path().join("changes"),
        ] {
            fs::create_dir_all(directory).expect("a directory");
        }
        fs::write(other.join("kept"), "mine").expect("a file");
        symlink(&other, &destination).expect("a link");
        let read = || FileStates::read(&root, &["w".to_owned(), "link".to_owned()], &[]).expect("a tree");
        let before = read();
        // One path for both: a link in the tree whose prefix is not shown, and a file in another one.
        symlink(&other, root.join("w/link")).expect("a link");
        fs::write(root.join("link/file"), "of the task").expect("a file");
        let lines = read().copy_changes(&before, "w", &destination).expect("copies");
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert_eq!(lines[1], "changed, but not copied: w/link");
        assert_eq!(fs::read_dir(&other).expect("a directory").count(), 1);
        assert!(!destination.is_symlink());
        assert!(destination.join("link/file").is_file());
    }
}
