//! The one cold build that all tests share.

use std::path::PathBuf;
use std::sync::OnceLock;

use crate::build_report::BuildReport;
use crate::site::{Site, copy_directory};

/// A build of `demo-image` from nothing.
pub struct ColdBuild {
    /// What the build said.
    pub report: BuildReport,
    /// The cache that it left; to be copied, not used.
    pub cache: PathBuf,
    /// What `--output` placed.
    pub output: PathBuf,
}

/// Builds `demo-image` from nothing the first time that a test asks for it.
///
/// The results are kept in one place below the target directory, which the next run of the tests empties.
pub fn cold_build() -> &'static ColdBuild {
    static COLD_BUILD: OnceLock<ColdBuild> = OnceLock::new();
    COLD_BUILD.get_or_init(|| {
        let test_program = std::env::current_exe().expect("this test program has a path");
        let directory = test_program.with_file_name("cold-build");
        if directory.exists() {
            std::fs::remove_dir_all(&directory).expect("the cold build of the last run can be removed");
        }
        std::fs::create_dir_all(&directory).expect("a directory for the cold build");
        let site = Site::empty();
        let output = site.path("output");
        let report = site
            .build(&["--output", &output.display().to_string(), "demo-image"])
            .succeeded();
        let build = ColdBuild {
            report,
            cache: directory.join("cache"),
            output: directory.join("output"),
        };
        // Tens of thousands of links to files that a worker can fetch again: not worth a copy for every test.
        std::fs::remove_dir_all(site.cache().join("bitzel/worker"))
            .expect("the worker's cache can be removed");
        copy_directory(&site.cache(), &build.cache);
        copy_directory(&output, &build.output);
        build
    })
}
