//! The worker's directory on disk: who owns it, what is in it, and how what is temporary goes away again.
//!
//! ```text
//! lock                 held as long as the worker lives
//! files/<2 hex>/…      the file cache, the only thing that outlives the process
//! layers/<n>/          shared lower layers of input roots
//! actions/<n>/         one running Action: lower, upper, work, stdout, stderr
//! idle/<n>/            what the next Action can have of that: lower and work, both empty
//! temporary/<n>        files that are being written
//! etc/                 the sandbox's /etc/passwd and the like
//! ```
//!
//! A worker that was killed leaves layers, Actions and temporary files behind; the next one removes them when it
//! opens the directory. The lock guards it against doing so to a living worker.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::error::Error;

mod removal;

pub use removal::remove_tree;

/// The worker's directory, locked.
#[derive(Debug)]
pub struct Scratch {
    root: PathBuf,
    counter: AtomicU64,
    /// Directories below `idle`, relative to the root.
    idle: Mutex<Vec<String>>,
    _lock: File,
}

impl Scratch {
    /// Creates or opens the directory, locks it and removes what a killed predecessor left.
    pub fn open(root: &Path) -> Result<Arc<Self>, Error> {
        let io = |what: &str, path: &Path| Error::io(format!("{what} {}", path.display()));
        let mut private = DirBuilder::new();
        private.recursive(true).mode(0o700);
        private.create(root).map_err(io("create", root))?;
        let root = root.canonicalize().map_err(io("resolve", root))?;
        // Files of Actions may be setuid: nobody else may reach them.
        fs::set_permissions(&root, Permissions::from_mode(0o700)).map_err(io("change mode of", &root))?;
        let lock = root.join("lock");
        let file = File::create(&lock).map_err(io("create", &lock))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(Error::CacheInUse(root)),
            Err(fs::TryLockError::Error(source)) => return Err(io("lock", &lock)(source)),
        }
        for name in ["layers", "actions", "idle", "temporary"] {
            let path = root.join(name);
            remove_tree(&path).map_err(io("remove", &path))?;
        }
        for name in ["files", "layers", "actions", "idle", "temporary", "etc"] {
            let path = root.join(name);
            private.create(&path).map_err(io("create", &path))?;
        }
        Ok(Arc::new(Self {
            root,
            counter: AtomicU64::new(0),
            idle: Mutex::default(),
            _lock: file,
        }))
    }

    /// The directory itself, absolute.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path that nothing else uses, relative to the root: `<parent>/<n>`.
    pub fn fresh(&self, parent: &str) -> String {
        format!("{parent}/{:x}", self.counter.fetch_add(1, Ordering::Relaxed))
    }

    /// A directory for one Action, as good as new: nothing in it was ever within a command's reach.
    pub fn action_directory(self: &Arc<Self>) -> Result<ActionDirectory, Error> {
        let directory = ActionDirectory {
            relative: self.fresh("actions"),
            scratch: Arc::clone(self),
            removed: false,
        };
        let idle = self.idle.lock().pop();
        let fresh: &[&str] = if let Some(idle) = idle {
            let (from, to) = (self.root.join(idle), directory.path(""));
            fs::rename(&from, &to).map_err(Error::io(format!("rename {}", from.display())))?;
            &["upper"]
        } else {
            &["", "lower", "upper", "work"]
        };
        for name in fresh {
            let path = directory.path(name);
            DirBuilder::new()
                .mode(0o700)
                .create(&path)
                .map_err(Error::io(format!("create {}", path.display())))?;
        }
        Ok(directory)
    }
}

/// The directory of one running Action. It is removed when the value is dropped, on whichever way.
#[derive(Debug)]
pub struct ActionDirectory {
    scratch: Arc<Scratch>,
    relative: String,
    removed: bool,
}

impl ActionDirectory {
    /// The absolute path of an entry.
    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.root.join(self.relative(name))
    }

    /// The path of an entry relative to the worker's directory.
    pub fn relative(&self, name: &str) -> String {
        format!("{}/{name}", self.relative)
    }

    /// Removes the directory now and says whether that worked. Blocks.
    ///
    /// Its `lower` and `work` are kept for the next Action where they can be empty: making and removing directories
    /// is a good part of what a small Action costs. `upper` and the logs go, because a command may have given
    /// them attributes that the next one would inherit.
    pub fn remove(mut self) -> Result<(), Error> {
        self.removed = true;
        let failed = |path: &Path| Error::io(format!("remove {}", path.display()));
        for name in ["upper", "work/work"] {
            let path = self.path(name);
            remove_tree(&path).map_err(failed(&path))?;
        }
        for name in ["stdout", "stderr"] {
            let path = self.path(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(&path)(error)),
                _ => {}
            }
        }
        let path = self.path("");
        if !self.is_reusable().unwrap_or(false) {
            return remove_tree(&path).map_err(failed(&path));
        }
        let idle = self.scratch.fresh("idle");
        fs::rename(&path, self.scratch.root.join(&idle)).map_err(failed(&path))?;
        self.scratch.idle.lock().push(idle);
        Ok(())
    }

    /// Like [`ActionDirectory::remove`], but keeps nothing: for an Action that may have given files to processes outside its
    /// sandbox. In the machine's network there are ways to. Such a process can go on writing to them, and to
    /// the directories they are in, for as long as it lives.
    pub fn discard(mut self) -> Result<(), Error> {
        self.removed = true;
        let path = self.path("");
        remove_tree(&path).map_err(Error::io(format!("remove {}", path.display())))
    }

    /// Makes `lower`, which has the mode of the last input root, as it was, and says whether nothing is left.
    fn is_reusable(&self) -> io::Result<bool> {
        let lower = self.path("lower");
        fs::set_permissions(&lower, Permissions::from_mode(0o700))?;
        Ok(is_empty(&lower)? && is_empty(&self.path("work"))?)
    }
}

fn is_empty(directory: &Path) -> io::Result<bool> {
    Ok(fs::read_dir(directory)?.next().is_none())
}

impl Drop for ActionDirectory {
    fn drop(&mut self) {
        if self.removed {
            return;
        }
        let path = self.path("");
        let remove = move || {
            if let Err(error) = remove_tree(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove the directory of an Action");
            }
        };
        // An abandoned execution drops this inside the runtime, which must not wait for a disk.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}
