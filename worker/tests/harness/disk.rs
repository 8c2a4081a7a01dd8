//! Files and events in the directories of a worker.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::worker::Worker;

/// Paths of all files below a directory, relative to it, and their contents.
pub fn contents(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else {
                found.insert(
                    path.strip_prefix(root).unwrap().to_owned(),
                    std::fs::read(&path).unwrap(),
                );
            }
        }
    }
    found
}

/// Limit of the wait for a file, far above the time that any command here needs.
const CREATION_TIMEOUT: Timespec = Timespec {
    tv_sec: 60,
    tv_nsec: 0,
};

/// Waits until the only running command has created the file `name` in its tree. The command has to be starting: its
/// directory exists.
pub async fn created_by_command(worker: &Worker, name: &'static str) -> PathBuf {
    let actions = std::fs::read_dir(worker.cache().join("changes")).unwrap();
    let upper = actions
        .map(|action| action.unwrap().path().join("upper"))
        .find(|upper| upper.is_dir())
        .expect("an Action is running");
    let wait = move || {
        let watch = inotify::init(CreateFlags::CLOEXEC).unwrap();
        inotify::add_watch(&watch, &upper, WatchFlags::CREATE | WatchFlags::MOVED_TO).unwrap();
        let path = upper.join(name);
        while !path.exists() {
            let mut events = [PollFd::new(&watch, PollFlags::IN)];
            let ready = poll(&mut events, Some(&CREATION_TIMEOUT)).unwrap();
            assert!(ready > 0, "the command created no file {name}");
            rustix::io::read(&watch, &mut [0; 4096]).unwrap();
        }
        path
    };
    tokio::task::spawn_blocking(wait).await.unwrap()
}
