//! Finds the control group of this process, and prepares it for groups below.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Controllers;

/// Name of the group that the worker itself moves to: a group with limited groups below may have no processes. systemd
/// starts the worker there with `DelegateSubgroup=bitzel-worker`.
const WORKERS_GROUP: &str = "bitzel-worker";

/// The directory of the delegated group, and the controllers that groups below it have. The error is the reason why
/// there is none.
pub(super) fn take() -> Result<(PathBuf, Controllers), String> {
    let read = |path| fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
    let own = own_group(&read("/proc/self/cgroup")?, &read("/proc/self/mountinfo")?)
        .ok_or("cgroup v2 is not mounted, or without this process's group")?;
    let directory = match own.parent() {
        Some(parent) if own.ends_with(WORKERS_GROUP) => parent.to_owned(),
        _ => own,
    };
    prepare(&directory).map(|controllers| (directory, controllers))
}

/// Finds the directory of the group that `groups`, a `/proc/self/cgroup`, names among `mounts`, a `/proc/self/mountinfo`.
fn own_group(groups: &str, mounts: &str) -> Option<PathBuf> {
    let path = Path::new(groups.lines().find_map(|line| line.strip_prefix("0::"))?);
    mounts.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        if file_system.split(' ').next() != Some("cgroup2") {
            return None;
        }
        let mut fields = mount.split(' ').skip(3);
        let (root, target) = (fields.next()?, fields.next()?);
        // A group outside the mounted part has a path like `/../other`.
        let relative = path.strip_prefix(root).ok()?;
        let is_below = !relative.components().any(|part| part.as_os_str() == "..");
        // Components, because a join with an empty path would end in a slash.
        is_below.then(|| Path::new(target).join(relative).components().collect())
    })
}

/// Enables the controllers for groups below `directory`.
pub(super) fn prepare(directory: &Path) -> Result<Controllers, String> {
    let file = |name: &str| directory.join(name);
    let failed = |name: &str, error: io::Error| format!("{}: {error}", file(name).display());
    let read = |name: &str| fs::read_to_string(file(name)).map_err(|error| failed(name, error));
    let offered = controllers(&read("cgroup.controllers")?);
    if !offered.memory && !offered.pids {
        return Err(format!(
            "{} has neither the controller `memory` nor `pids`",
            directory.display()
        ));
    }
    if let Err(error) = enable(directory, offered) {
        if error.raw_os_error() != Some(rustix::io::Errno::BUSY.raw_os_error()) {
            return Err(failed("cgroup.subtree_control", error));
        }
        // Only a group that is this worker's own: with a shell in it, the system has not delegated it.
        let processes = read("cgroup.procs")?;
        if processes.trim() != std::process::id().to_string() {
            return Err(format!("{} has other processes", directory.display()));
        }
        move_to(&file(WORKERS_GROUP)).map_err(|error| failed(WORKERS_GROUP, error))?;
        if let Err(error) = enable(directory, offered) {
            // Back, as it was.
            let _ = fs::write(file("cgroup.procs"), "0");
            let _ = fs::remove_dir(file(WORKERS_GROUP));
            return Err(failed("cgroup.subtree_control", error));
        }
    }
    Ok(controllers(&read("cgroup.subtree_control")?))
}

fn move_to(group: &Path) -> io::Result<()> {
    match fs::create_dir(group) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    // 0 stands for the process that writes.
    fs::write(group.join("cgroup.procs"), "0")
}

/// Enables each of the offered controllers.
fn enable(directory: &Path, offered: Controllers) -> io::Result<()> {
    let names = [
        (offered.memory, "+memory"),
        (offered.pids, "+pids"),
        (offered.cpu, "+cpu"),
        (offered.io, "+io"),
    ];
    let names: Vec<&str> = names
        .into_iter()
        .filter_map(|(is_offered, name)| is_offered.then_some(name))
        .collect();
    fs::write(directory.join("cgroup.subtree_control"), names.join(" "))
}

fn controllers(text: &str) -> Controllers {
    let has = |name| text.split_whitespace().any(|found| found == name);
    Controllers {
        memory: has("memory"),
        pids: has("pids"),
        cpu: has("cpu"),
        io: has("io"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "24 1 0:22 / /proc rw - proc proc rw\n\
                          30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn finds_the_group_of_a_process() {
        let groups = "5:pids:/a\n0::/system.slice/bitzel.service\n";
        let expected = Path::new("/sys/fs/cgroup/system.slice/bitzel.service");
        assert_eq!(own_group(groups, MOUNTS).as_deref(), Some(expected));
        // As text: paths with and without a slash at the end are equal.
        let root = own_group("0::/\n", MOUNTS).unwrap();
        assert_eq!(root.to_str(), Some("/sys/fs/cgroup"));
    }

    #[test]
    fn finds_no_group_where_there_is_none() {
        assert_eq!(own_group("5:pids:/a\n", MOUNTS), None);
        assert_eq!(own_group("0::/../other\n", MOUNTS), None);
        assert_eq!(own_group("0::/\n", "24 1 0:22 / /proc rw - proc proc rw\n"), None);
        let part = "30 24 0:26 /part /mnt rw - cgroup2 cgroup2 rw\n";
        assert_eq!(own_group("0::/other\n", part), None);
        assert_eq!(
            own_group("0::/part/x\n", part).as_deref(),
            Some(Path::new("/mnt/x"))
        );
    }
}
