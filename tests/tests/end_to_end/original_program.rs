//! Requests that `BitBake`'s own program answers: the same bytes as from `bitbake` on the same build directory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

use super::releases::CONFIGURATION;
use bitzel_tests::{Release, Site, bitzel_program, text_of};

/// Output of a command, and the files that it left in the build directory, by path.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    stdout: String,
    files: BTreeMap<String, Vec<u8>>,
}

impl Answer {
    fn has(&self, part: &str) -> bool {
        self.files.keys().any(|path| path.contains(part))
    }
}

/// Files that differ from run to run of `BitBake`: they hold times, process ids, or sets in any order.
const VOLATILE: [&str; 8] = [
    "pyshtables.py",
    "tmp/buildstats/",
    "tmp/sstate-control/index-",
    "bitbake-cookerdaemon.log",
    "bitbake.lock",
    "cache/",
    "tmp/cache/",
    "tmp/log/",
];

#[test]
fn environments_are_those_of_bitbake() {
    let Some((site, release)) = demo_site() else {
        return;
    };
    for arguments in [
        &["-e", "zlib"][..],
        &["-e"],
        &["-e", "-c", "compile", "lz4-native"],
    ] {
        let answer = assert_same_answer(&site, &release, arguments, false);
        let directory = site.path("build").display().to_string();
        assert!(
            answer.stdout.contains(&format!("TOPDIR=\"{directory}\"")),
            "{}",
            answer.stdout
        );
    }
}

#[test]
fn graph_files_are_those_of_bitbake() {
    let Some((site, release)) = demo_site() else {
        return;
    };
    let answer = assert_same_answer(&site, &release, &["-g", "picture-report", "jansson"], false);
    for file in ["task-depends.dot", "pn-buildlist"] {
        assert!(answer.has(file), "{:?}", answer.files.keys());
    }
}

#[test]
fn signature_files_are_those_of_bitbake() {
    let Some((site, release)) = demo_site() else {
        return;
    };
    let answer = assert_same_answer(&site, &release, &["-S", "none", "zlib"], false);
    assert!(answer.has("do_compile.sigdata."), "{:?}", answer.files.keys());
}

#[test]
fn differences_of_signatures_are_those_of_bitbake() {
    let Some(release) = Release::find_or_skip("6.0.2") else {
        return;
    };
    // BitBake compares with the help of functions of openembedded-core.
    let site = Site::of_release(&release, CONFIGURATION);
    drop(assert_same_answer(
        &site,
        &release,
        &["-S", "none", "makedevs-native"],
        false,
    ));
    site.configure("CFLAGS:append:pn-makedevs-native = \" -g\"\n");
    let answer = assert_same_answer(&site, &release, &["-S", "printdiff", "makedevs-native"], true);
    let heading = "The differences between the current build and any cached tasks";
    assert!(answer.stdout.contains(heading), "{}", answer.stdout);
}

#[test]
fn bitbake_without_its_program_is_refused() {
    let site = Site::empty();
    let report = site.build(&["-e", "zlib"]).failed();
    assert!(report.text.contains("no bin/bitbake"), "{}", report.text);
}

/// The demo layer with a release's `BitBake`.
fn demo_site() -> Option<(Site, Release)> {
    let release = Release::find_or_skip("master")?;
    Some((Site::with_bitbake(&release.bitbake), release))
}

/// Runs `bitzel build` and `bitbake` from the same state and returns their answer. With `keeps`, the state is that of
/// the last command, else an empty build directory.
fn assert_same_answer(site: &Site, release: &Release, arguments: &[&str], keeps: bool) -> Answer {
    let saved = site.path("saved");
    let plain = release.bitbake_command();
    let mut ours = site.command(bitzel_program());
    ours.env_clear()
        .env("XDG_CACHE_HOME", site.cache())
        .envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .env("HOME", site.path("home"))
        .arg("build")
        .args(site.build_directory_arguments());
    let mut plain = plain;
    plain
        .env("HOME", site.path("home"))
        // As every shell sets it.
        .env("PWD", site.path("build"));
    if keeps {
        copy_state(&site.path("build"), &saved);
    }
    let mut answers = vec![];
    for mut command in [ours, plain] {
        reset(&site.path("build"), keeps.then_some(saved.as_path()));
        answers.push(answer(site, command.args(arguments)));
    }
    let (plain, ours) = (
        answers.pop().expect("two answers"),
        answers.pop().expect("two answers"),
    );
    if arguments.contains(&"printdiff") {
        // BitBake prints sets.
        assert_eq!(sorted_lines(&ours.stdout), sorted_lines(&plain.stdout));
        return ours;
    }
    for (ours, plain) in ours.stdout.lines().zip(plain.stdout.lines()) {
        assert_eq!(ours, plain);
    }
    let all: BTreeSet<&String> = ours.files.keys().chain(plain.files.keys()).collect();
    let different: Vec<&String> = all
        .into_iter()
        .filter(|path| ours.files.get(*path) != plain.files.get(*path))
        .collect();
    assert_eq!(different, Vec::<&String>::new());
    assert_eq!(ours.stdout.len(), plain.stdout.len());
    ours
}

fn sorted_lines(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

fn answer(site: &Site, command: &mut Command) -> Answer {
    let build = site.path("build");
    let output = command.current_dir(&build).output().expect("the program starts");
    assert!(output.status.success(), "{}", text_of(&output));
    // BitBake's server holds the lock until it has ended.
    if let Ok(lock) = File::open(build.join("bitbake.lock")) {
        lock.lock().expect("the end of the server");
    }
    let mut files = BTreeMap::new();
    read_files(&build, "", &mut files);
    // The only value that differs from run to run is the address of an object.
    let stdout = String::from_utf8(output.stdout).expect("text");
    let lines = stdout
        .lines()
        .filter(|line| !line.contains("<bb.data_smart.DataSmart object at "));
    Answer {
        stdout: lines.collect::<Vec<_>>().join("\n"),
        files,
    }
}

fn read_files(directory: &Path, relative: &str, files: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let entry = entry.expect("an entry");
        let path = format!("{relative}{}", entry.file_name().display());
        let kind = entry.file_type().expect("its type");
        if kind.is_dir() {
            read_files(&entry.path(), &format!("{path}/"), files);
        } else if kind.is_file() && !VOLATILE.iter().any(|volatile| path.starts_with(volatile)) {
            files.insert(path, fs::read(entry.path()).expect("a file"));
        }
    }
}

/// Leaves `conf` alone in the build directory, and copies the saved state into it.
fn reset(build: &Path, saved: Option<&Path>) {
    for entry in fs::read_dir(build).expect("the build directory") {
        let path = entry.expect("an entry").path();
        if path.ends_with("conf") {
            continue;
        }
        let removed = if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        // The server removes its lock and socket at its end.
        removed
            .or_else(|error| match error.kind() {
                ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            })
            .expect("the last answer is removed");
    }
    if let Some(saved) = saved {
        copy_state(saved, build);
    }
}

fn copy_state(from: &Path, to: &Path) {
    let status = Command::new("cp")
        .args(["-a", "--no-target-directory"])
        .args([from, to])
        .status()
        .expect("cp starts");
    assert!(status.success());
}
