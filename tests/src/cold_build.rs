//! The cold build that all tests of a run share.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::SystemTime;

use crate::build_report::BuildReport;
use crate::site::Site;
use crate::tree::copy_directory;

/// Identifies a run of cargo-nextest, which starts a process for each test.
const NEXTEST_RUN_ID: &str = "NEXTEST_RUN_ID";

/// A build of `demo-image` from nothing.
pub struct ColdBuild {
    /// Result of the build.
    pub report: BuildReport,
    /// The cache after the build. Tests copy it and never change it.
    pub cache: PathBuf,
    /// The directory of `--output`.
    pub output: PathBuf,
}

/// The cold build of this run of the tests.
///
/// The first test that needs it makes it; all other tests, also those in other processes, wait for it. It is in one
/// directory below the target directory, and the next run of the tests replaces it.
pub fn cold_build() -> &'static ColdBuild {
    static COLD_BUILD: OnceLock<ColdBuild> = OnceLock::new();
    COLD_BUILD.get_or_init(|| {
        let test_program = std::env::current_exe().expect("this test program has a path");
        let directory = test_program.with_file_name("cold-build");
        let lock = File::create(directory.with_extension("lock")).expect("a lock file");
        lock.lock().expect("the lock");
        let (run, run_file) = (run_id(), directory.join("run"));
        if std::fs::read_to_string(&run_file).ok().as_ref() != Some(&run) {
            make(&directory);
            std::fs::write(&run_file, run).expect("the id of this run");
        }
        let report = std::fs::read_to_string(directory.join("report.json")).expect("a report");
        ColdBuild {
            report: BuildReport::from_json(&report),
            cache: directory.join("cache"),
            output: directory.join("output"),
        }
    })
}

/// Equal in all processes of a run, and different in every run.
fn run_id() -> String {
    std::env::var(NEXTEST_RUN_ID).unwrap_or_else(|_| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        format!("{}-{}", std::process::id(), now.expect("after 1970").as_nanos())
    })
}

fn make(directory: &Path) {
    if directory.exists() {
        std::fs::remove_dir_all(directory).expect("the cold build of the last run can be removed");
    }
    std::fs::create_dir_all(directory).expect("a directory for the cold build");
    let site = Site::empty();
    let output = site.path("output");
    let report = site
        .build(&["--output", &output.display().to_string(), "demo-image"])
        .succeeded();
    // Tens of thousands of links to files that a worker can fetch again: copies for every test would be slow.
    std::fs::remove_dir_all(site.cache().join("bitzel/worker")).expect("the worker's cache can be removed");
    copy_directory(&site.cache(), &directory.join("cache"));
    copy_directory(&output, &directory.join("output"));
    std::fs::write(directory.join("report.json"), report.to_json()).expect("a report");
}
