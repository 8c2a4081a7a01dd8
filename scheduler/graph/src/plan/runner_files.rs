//! Input files of the one-task runner: `task.json` and `dependencies.json`.

use std::collections::{BTreeMap, BTreeSet};

use bitzel_proto::graph::Task;
use bytes::Bytes;
use serde::Serialize;

use super::task_index::TaskIndex;

/// Version of both files; the runner refuses others.
const FORMAT_VERSION: u32 = 1;

#[derive(Serialize)]
struct TaskFile<'a> {
    format: u32,
    recipe: &'a str,
    task: &'a str,
    taskhash: &'a str,
    unihash: &'a str,
    basehash: &'a str,
    multiconfig: &'a str,
    file_checksums: &'a [bitzel_proto::graph::FileChecksum],
    taint: &'a str,
    build_name: &'a str,
    date: &'a str,
    time: &'a str,
    umask: &'a str,
    fakeroot: bool,
    setscene: bool,
    appends: &'a [String],
    layer_name: &'a str,
    package_name: &'a str,
    provides: &'a [String],
    hash_filename: &'a str,
    work_directory: &'a str,
    log_directory: &'a str,
    private_directories: &'a [String],
    foreign_work_directories: Vec<&'a str>,
    published_paths: &'a [String],
    lockfiles: &'a [String],
    fakeroot_environment: &'a str,
    fakeroot_no_environment: &'a str,
    fakeroot_base_environment: &'a str,
    fakeroot_command: &'a str,
    fakeroot_directories: &'a str,
}

/// Writes `task.json`: the task itself. `taskhash` is the one that follows from the dependencies of this build. With
/// `is_restore`, the runner executes the setscene task.
pub fn task_file(index: &TaskIndex, task: u32, taskhash: &str, is_restore: bool) -> Bytes {
    let (message, recipe) = (index.task(task), index.recipe(task));
    let settings = index.graph().settings.clone().unwrap_or_default();
    let file = TaskFile {
        format: FORMAT_VERSION,
        recipe: &recipe.key,
        task: &message.name,
        taskhash,
        unihash: taskhash,
        basehash: &message.basehash,
        multiconfig: &recipe.multiconfig,
        file_checksums: &message.file_checksums,
        taint: &message.taint,
        build_name: &settings.build_name,
        date: &settings.date,
        time: &settings.time,
        umask: if message.umask.is_empty() {
            &settings.default_umask
        } else {
            &message.umask
        },
        fakeroot: if is_restore {
            message.setscene_fakeroot
        } else {
            message.fakeroot
        },
        setscene: is_restore,
        appends: &recipe.appends,
        layer_name: &recipe.layer_name,
        package_name: &recipe.package_name,
        provides: &recipe.provides,
        hash_filename: &recipe.hash_filename,
        work_directory: &recipe.work_directory,
        log_directory: &recipe.log_directory,
        private_directories: &recipe.other_private_directories,
        foreign_work_directories: foreign_work_directories(index, message),
        published_paths: &message.published_paths,
        lockfiles: &message.lockfiles,
        fakeroot_environment: &recipe.fakeroot_environment,
        fakeroot_no_environment: &recipe.fakeroot_no_environment,
        fakeroot_base_environment: &recipe.fakeroot_base_environment,
        fakeroot_command: &recipe.fakeroot_command,
        fakeroot_directories: &recipe.fakeroot_directories,
    };
    // A struct of strings, numbers and lists always has a JSON form.
    serde_json::to_vec(&file).unwrap_or_default().into()
}

/// Work directories of other recipes whose private trees the task sees, each once.
fn foreign_work_directories<'i>(index: &'i TaskIndex, task: &Task) -> Vec<&'i str> {
    let foreign = task.foreign_work_trees.iter();
    let directories: BTreeSet<&str> = foreign
        .map(|foreign| index.recipe(*foreign).work_directory.as_str())
        .filter(|directory| !directory.is_empty())
        .collect();
    directories.into_iter().collect()
}

/// One entry of `BB_TASKDEPDATA`, in the order of `bb.TaskData` (bb/__init__.py): pn, taskname, fn, deps, provides,
/// taskhash, unihash, hashfn, `taskhash_deps`.
type DependencyData<'a> = (
    &'a str,
    &'a str,
    &'a str,
    Vec<String>,
    &'a [String],
    &'a str,
    &'a str,
    &'a str,
    &'a [String],
);

/// Writes `dependencies.json`: the task and its dependencies. They are transitive within its multiconfig if the task needs
/// that (runqueue.py, `build_taskdepdata`), else direct.
///
/// A dependency has its unihash also where BitBake gives the taskhash: names that tasks derive from these hashes then stay
/// the same when a dependency was built again with equal outputs.
pub fn dependencies_file<'u>(
    index: &TaskIndex,
    task: u32,
    taskhash: &str,
    unihash: &dyn Fn(u32) -> &'u str,
) -> Bytes {
    let multiconfig = index.recipe(task).multiconfig.as_str();
    let full = index.task(task).needs_dependency_data;
    let mut entries: BTreeMap<String, DependencyData<'_>> = BTreeMap::new();
    let mut seen = vec![false; index.tasks().len()];
    let mut pending = vec![task];
    seen[task as usize] = true;
    while let Some(next) = pending.pop() {
        let (message, recipe) = (index.task(next), index.recipe(next));
        let hash = if next == task { taskhash } else { unihash(next) };
        let dependencies = same_multiconfig(index, message, multiconfig);
        let entry = (
            recipe.package_name.as_str(),
            message.name.as_str(),
            file_name(&recipe.key),
            dependencies
                .iter()
                .map(|dependency| index.task_id(*dependency))
                .collect(),
            recipe.provides.as_slice(),
            hash,
            hash,
            recipe.hash_filename.as_str(),
            message.taskhash_dependencies.as_slice(),
        );
        entries.insert(index.task_id(next), entry);
        if full || next == task {
            for dependency in dependencies {
                if !std::mem::replace(&mut seen[dependency as usize], true) {
                    pending.push(dependency);
                }
            }
        }
    }
    serde_json::to_vec(&entries).unwrap_or_default().into()
}

fn same_multiconfig(index: &TaskIndex, task: &Task, multiconfig: &str) -> Vec<u32> {
    let same = |dependency: &&u32| index.recipe(**dependency).multiconfig == multiconfig;
    task.dependencies.iter().filter(same).copied().collect()
}

/// Path of the recipe's file as `split_tid_mcfn` gives it: without the prefix of the multiconfig.
fn file_name(key: &str) -> &str {
    match key.strip_prefix("mc:").and_then(|rest| rest.split_once(':')) {
        Some((_, file)) => file,
        None => key,
    }
}

#[cfg(test)]
mod tests;
