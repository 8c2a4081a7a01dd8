//! Build directories for tests.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::build_report::BuildReport;
use crate::cold_build::cold_build;
use crate::program::{bitbake_directory, bitzel_program, downloads_directory, layer_directory};
use crate::program_output::{run, text_of};
use crate::release::Release;
use crate::tree::copy_directory;

/// Longer than any build takes on a slow machine; only a program that hangs reaches it.
const TIMEOUT_SECONDS: &str = "1200";

/// A build directory with its own layer, cache and home directory. Removed when it is dropped.
pub struct Site {
    directory: TempDir,
    bitbake: PathBuf,
}

impl Site {
    /// A site with a copy of the demo layer and an empty cache.
    pub fn empty() -> Self {
        Self::with_bitbake(&bitbake_directory())
    }

    /// An empty site of the demo layer with this `BitBake`.
    pub fn with_bitbake(bitbake: &Path) -> Self {
        let site = Self::new(bitbake.to_owned());
        copy_directory(&layer_directory(), &site.layer());
        let local = format!(
            "DL_DIR = \"{}\"\nBB_NUMBER_THREADS = \"2\"\nPARALLEL_MAKE = \"-j2\"\n",
            downloads_directory().display()
        );
        site.write_configuration(&site.layer(), &local);
        site
    }

    /// A site with openembedded-core and the `BitBake` of a release, and an empty cache.
    pub fn of_release(release: &Release, local: &str) -> Self {
        let site = Self::new(release.bitbake.clone());
        site.write_configuration(&release.core.join("meta"), local);
        site
    }

    fn new(bitbake: PathBuf) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("bitzel-test-")
            .tempdir()
            .expect("a temporary directory");
        let site = Self { directory, bitbake };
        for name in ["home", "cache", "temporary", "build/conf"] {
            std::fs::create_dir_all(site.path(name)).expect("a directory of the site");
        }
        site
    }

    fn write_configuration(&self, layer: &Path, local: &str) {
        let layers = format!(
            "BBPATH = \"${{TOPDIR}}\"\nBBFILES ?= \"\"\nBBLAYERS = \"{}\"\n",
            layer.display()
        );
        std::fs::write(self.path("build/conf/bblayers.conf"), layers).expect("bblayers.conf");
        std::fs::write(self.path("build/conf/local.conf"), local).expect("local.conf");
    }

    /// A site with a copy of the demo layer and the results of a cold build of `demo-image` in another directory.
    pub fn with_results_of_cold_build() -> Self {
        let site = Self::empty();
        std::fs::remove_dir(site.cache()).expect("the cache is empty");
        copy_directory(&cold_build().cache, &site.cache());
        site
    }

    /// A path inside the site.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.directory.path().join(relative)
    }

    /// The site's own copy of the demo layer.
    pub fn layer(&self) -> PathBuf {
        self.path("layer")
    }

    /// The value of `XDG_CACHE_HOME`: everything that bitzel keeps from one build to the next.
    pub fn cache(&self) -> PathBuf {
        self.path("cache")
    }

    /// The value of `TMPDIR` in the environment: temporary files of programs.
    pub fn temporary(&self) -> PathBuf {
        self.path("temporary")
    }

    /// Makes [`Self::layer`] an empty layer beside openembedded-core, for the release of that code name.
    pub fn add_layer_to_core(&self, code_name: &str) {
        let layer = self.layer();
        std::fs::create_dir_all(layer.join("conf")).expect("a layer");
        let text = format!(
            "BBFILES += \"${{LAYERDIR}}/recipes/*/*.bb\"\nBBFILE_COLLECTIONS += \"demo\"\n\
             BBFILE_PATTERN_demo = \"^${{LAYERDIR}}/\"\nLAYERSERIES_COMPAT_demo = \"{code_name}\"\n"
        );
        std::fs::write(layer.join("conf/layer.conf"), text).expect("layer.conf");
        self.add_layer(&layer);
    }

    /// Adds a layer to the build directory's bblayers.conf.
    pub fn add_layer(&self, layer: &Path) {
        let path = self.path("build/conf/bblayers.conf");
        let text = std::fs::read_to_string(&path).expect("bblayers.conf");
        std::fs::write(&path, format!("{text}BBLAYERS += \"{}\"\n", layer.display())).expect("bblayers.conf");
    }

    /// Writes a recipe of version 1.0 into the layer.
    pub fn add_recipe(&self, name: &str, text: &str) {
        let directory = self.layer().join("recipes").join(name);
        std::fs::create_dir_all(&directory).expect("a recipe directory");
        std::fs::write(directory.join(format!("{name}_1.0.bb")), text).expect("a recipe");
    }

    /// Adds lines to the build directory's local.conf.
    pub fn configure(&self, lines: &str) {
        let path = self.path("build/conf/local.conf");
        let text = std::fs::read_to_string(&path).expect("local.conf");
        std::fs::write(&path, text + lines).expect("local.conf");
    }

    /// Replaces a text in a file of the layer; panics if the file does not have it.
    pub fn edit_layer(&self, file: &str, old: &str, new: &str) {
        let path = self.layer().join(file);
        let text =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(text.contains(old), "{file} does not contain {old:?}");
        std::fs::write(&path, text.replace(old, new)).expect("a file of the layer");
    }

    /// The bitzel program with a subcommand, in the environment of this site.
    pub fn bitzel(&self, subcommand: &str) -> Command {
        let mut command = self.command(bitzel_program());
        command.arg(subcommand);
        command
    }

    /// Another program in the environment of this site.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        self.set_environment(&mut command);
        command
    }

    /// The arguments that select this site's build directory and its `BitBake`.
    pub fn build_directory_arguments(&self) -> Vec<String> {
        vec![
            "--build-dir".to_owned(),
            self.path("build").display().to_string(),
            "--bitbake".to_owned(),
            self.bitbake.display().to_string(),
        ]
    }

    /// Runs `bitzel build` with these arguments to its end.
    pub fn build(&self, arguments: &[&str]) -> BuildReport {
        self.build_with(&[], arguments)
    }

    /// As [`build`](Self::build), with more environment variables.
    pub fn build_with(&self, variables: &[(&str, &str)], arguments: &[&str]) -> BuildReport {
        let events = self.path("events.jsonl");
        if events.exists() {
            std::fs::remove_file(&events).expect("the events of the build before");
        }
        let mut command = Command::new("timeout");
        self.set_environment(&mut command);
        let output = command
            .envs(variables.iter().copied())
            .args(["--kill-after=10", TIMEOUT_SECONDS])
            .arg(bitzel_program())
            .arg("build")
            .args(self.build_directory_arguments())
            .arg("--events")
            .arg(&events)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("bitzel starts");
        assert_ne!(
            output.status.code(),
            Some(124),
            "the build hangs:\n{}",
            text_of(&output)
        );
        BuildReport::new(&output, &events)
    }

    /// Standard output of a subcommand on this site's build directory; panics unless it succeeds.
    pub fn output_of(&self, subcommand: &str, arguments: &[&str]) -> String {
        let mut command = self.bitzel(subcommand);
        run(command.args(self.build_directory_arguments()).args(arguments))
    }

    fn set_environment(&self, command: &mut Command) {
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").expect("PATH is set"))
            .env("LANG", "C.UTF-8")
            .env("HOME", self.path("home"))
            .env("USER", "somebody")
            .env("XDG_CACHE_HOME", self.cache())
            .env("TMPDIR", self.temporary())
            .current_dir(self.directory.path());
    }
}
