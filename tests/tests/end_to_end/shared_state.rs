//! Shared state caches that plain BitBake has filled, with unmodified openembedded-core.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::releases::CONFIGURATION;
use bitzel_tests::{FileServer, Release, Site, copy_directory, run, text_of};

const TARGET: &str = "makedevs-native";

/// A site with the build directory `plain` of plain BitBake, which has built the target.
struct Mirror {
    site: Site,
    release: Release,
    /// `SSTATE_DIR` of plain BitBake.
    directory: PathBuf,
}

impl Mirror {
    fn build_or_skip(tag: &str, configuration: &str) -> Option<Self> {
        let release = Release::find_or_skip(tag)?;
        let site = Site::of_release(&release, CONFIGURATION);
        let directory = site.path("mirror");
        let mirror = Self {
            site,
            release,
            directory,
        };
        let own = format!("SSTATE_DIR = \"{}\"\n{configuration}", mirror.directory.display());
        let (output, _) = mirror.plain_build("plain", &own);
        assert!(output.contains("Missed"), "{output}");
        Some(mirror)
    }

    /// Builds the target with plain BitBake in a new build directory. Returns its output and the tasks that were restored.
    fn plain_build(&self, name: &str, configuration: &str) -> (String, BTreeSet<String>) {
        let directory = self.site.path(name);
        std::fs::create_dir(&directory).expect("a build directory");
        copy_directory(&self.site.path("build/conf"), &directory.join("conf"));
        let local = directory.join("conf/local.conf");
        let text = std::fs::read_to_string(&local).expect("local.conf");
        std::fs::write(&local, format!("{text}\n{configuration}")).expect("local.conf");
        let mut command = self.release.bitbake_command();
        let output = command
            .arg(TARGET)
            .env("HOME", self.site.path("home"))
            .env("BUILDDIR", &directory)
            .current_dir(&directory)
            .output()
            .expect("bitbake starts");
        let text = text_of(&output);
        assert!(output.status.success(), "{text}");
        let mut restored = BTreeSet::new();
        restored_tasks(&directory, &mut restored);
        (text, restored)
    }

    /// Tasks that plain BitBake restores in an empty build directory with this configuration, and the counts of its
    /// search.
    fn plainly_restored(&self, configuration: &str) -> (String, BTreeSet<String>) {
        let (output, restored) = self.plain_build("warm", configuration);
        let summary = output.split("Sstate summary: ").nth(1).expect("a summary");
        (summary.lines().next().expect("a line").to_owned(), restored)
    }
}

/// Collects the tasks of which BitBake has written the log of a setscene task.
fn restored_tasks(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).expect("a directory of bitbake") {
        let entry = entry.expect("an entry");
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type().expect("its type").is_dir() {
            restored_tasks(&entry.path(), found);
        } else if let Some(task) = name
            .strip_prefix("log.")
            .and_then(|name| name.strip_suffix("_setscene"))
        {
            found.insert(format!("{TARGET}:{task}"));
        }
    }
}

/// The same tasks are restored as by plain BitBake with the same mirror, and nothing else is executed.
fn assert_starts_warm(mirror: &Mirror, configuration: &str) {
    let (summary, restored) = mirror.plainly_restored(configuration);
    assert!(!restored.is_empty());
    let site = &mirror.site;
    site.configure(configuration);
    let first = site.build(&[TARGET]).succeeded();
    assert_eq!(first.tasks("ran"), BTreeSet::new(), "{}", first.text);
    assert_eq!(first.tasks("restored"), restored);
    assert!(
        first.text.contains(&format!("shared state: {summary}")),
        "{}",
        first.text
    );
    // The results are in the store now.
    let second = site.build(&[TARGET]).succeeded();
    assert_eq!(second.tasks("ran"), BTreeSet::new());
    assert_eq!(second.tasks("restored"), BTreeSet::new());
    // A task above them finds what it needs.
    let next = site.build(&["-f", "-c", "compile", TARGET]).succeeded();
    assert!(
        next.tasks("ran").contains(&format!("{TARGET}:do_compile")),
        "{}",
        next.text
    );
}

macro_rules! local_mirrors {
    ($($name:ident = $tag:literal;)*) => {
        $(#[test]
        fn $name() {
            if let Some(mirror) = Mirror::build_or_skip($tag, "") {
                let lines = format!("SSTATE_MIRRORS = \"file://.* file://{}/PATH\"\n", mirror.directory.display());
                assert_starts_warm(&mirror, &lines);
            }
        })*
    };
}

local_mirrors! {
    yocto_5_0_5_starts_warm = "5.0.5";
    yocto_5_0_19_starts_warm = "5.0.19";
    yocto_5_2_4_starts_warm = "5.2.4";
    yocto_5_3_4_starts_warm = "5.3.4";
    yocto_6_0_2_starts_warm = "6.0.2";
    yocto_master_starts_warm = "master";
}

#[test]
fn a_mirror_over_http_is_used() {
    let Some(mirror) = Mirror::build_or_skip("6.0.2", "") else {
        return;
    };
    let server = FileServer::start(&mirror.directory);
    let lines = format!(
        "SSTATE_MIRRORS = \"file://.* {}/PATH;downloadfilename=PATH\"\n",
        server.url()
    );
    assert_starts_warm(&mirror, &lines);
}

#[test]
fn a_filled_shared_state_directory_is_used() {
    let Some(mirror) = Mirror::build_or_skip("6.0.2", "") else {
        return;
    };
    let lines = format!("SSTATE_DIR = \"{}\"\n", mirror.directory.display());
    assert_starts_warm(&mirror, &lines);
}

#[test]
fn a_damaged_archive_makes_the_task_run() {
    let Some(mirror) = Mirror::build_or_skip("6.0.2", "") else {
        return;
    };
    let damaged = archives(&mirror.directory, "_populate_sysroot.tar.zst");
    assert_eq!(damaged.len(), 1);
    std::fs::write(&damaged[0], "no archive").expect("a damaged archive");
    let site = &mirror.site;
    site.configure(&format!(
        "SSTATE_MIRRORS = \"file://.* file://{}/PATH\"\n",
        mirror.directory.display()
    ));
    let report = site.build(&[TARGET]).succeeded();
    let warning = format!("WARNING: {TARGET}:do_populate_sysroot is not restored from shared state");
    assert!(report.text.contains(&warning), "{}", report.text);
    let ran = report.tasks("ran");
    assert!(ran.contains(&format!("{TARGET}:do_populate_sysroot")), "{ran:?}");
    assert!(
        report
            .tasks("restored")
            .contains(&format!("{TARGET}:do_create_spdx")),
        "{}",
        report.text
    );
}

#[test]
fn signatures_of_archives_are_verified() {
    let Some(release) = Release::find_or_skip("6.0.2") else {
        return;
    };
    drop(release);
    let keys = Keys::new();
    let signing = format!(
        "SSTATE_VERIFY_SIG = \"1\"\nSSTATE_SIG_KEY = \"{}\"\nSSTATE_SIG_PASSPHRASE = \"\"\nGPG_PATH = \"{}\"\nHOSTTOOLS_NONFATAL += \"gpg gpg-agent\"\n",
        keys.name,
        keys.directory.path().display()
    );
    let Some(mirror) = Mirror::build_or_skip("6.0.2", &signing) else {
        return;
    };
    let lines = format!(
        "SSTATE_MIRRORS = \"file://.* file://{}/PATH\"\nSSTATE_VERIFY_SIG = \"1\"\nGPG_PATH = \"{}\"\n",
        mirror.directory.display(),
        keys.directory.path().display()
    );
    let site = &mirror.site;
    site.configure(&lines);
    // One archive is not the one that was signed.
    let license = &archives(&mirror.directory, "_populate_lic.tar.zst")[0];
    let sysroot = &archives(&mirror.directory, "_populate_sysroot.tar.zst")[0];
    std::fs::copy(sysroot, license).expect("another archive");
    let report = site.build(&[TARGET]).succeeded();
    let restored = report.tasks("restored");
    assert!(
        restored.contains(&format!("{TARGET}:do_populate_sysroot")),
        "{}",
        report.text
    );
    assert!(
        !restored.contains(&format!("{TARGET}:do_populate_lic")),
        "{restored:?}"
    );
    assert!(
        report.text.contains("cannot verify the signature"),
        "{}",
        report.text
    );
}

/// Archives of a cache whose names end with `suffix`.
fn archives(directory: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(next) = pending.pop() {
        for entry in std::fs::read_dir(&next).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                pending.push(path);
            } else if path.to_string_lossy().ends_with(suffix) {
                found.push(path);
            }
        }
    }
    found
}

/// A key pair of `GnuPG` without a passphrase.
struct Keys {
    directory: tempfile::TempDir,
    name: &'static str,
}

impl Keys {
    fn new() -> Self {
        // The path of the agent's socket has to be short.
        let directory = tempfile::Builder::new()
            .prefix("gpg")
            .tempdir_in("/tmp")
            .expect("a directory");
        let name = "archives@example.com";
        run(Command::new("gpg").arg("--homedir").arg(directory.path()).args([
            "--batch",
            "--passphrase",
            "",
            "--quick-gen-key",
            name,
        ]));
        Self { directory, name }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        let mut command = Command::new("gpgconf");
        let ended = command
            .arg("--homedir")
            .arg(self.directory.path())
            .args(["--kill", "all"])
            .status();
        assert!(ended.is_ok(), "the agent of the keys was not ended");
    }
}
