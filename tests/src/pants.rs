//! Pants with a small project, as a client of `bitzel serve`.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::program_output::text_of;

/// Longer than any of these builds takes; only a Pants that hangs reaches it.
const TIMEOUT_SECONDS: &str = "180";

/// Image that the target of the project asks for, by the convention of other execution services.
pub const CONTAINER_IMAGE: &str = "docker://registry.example/builder:12";

/// A target whose command reads a source of the project and runs in the environment of the farm. The shell's own
/// commands only: Pants leaves `{chroot}` in the `PATH` of remote commands, so they find none of their `tools`.
const BUILD: &str = r#"
remote_environment(
    name="farm",
    platform="linux_x86_64",
    cache_binary_discovery=True,
    shell_executable_search_paths=["/usr/bin", "/bin"],
    extra_platform_properties=["container-image=CONTAINER_IMAGE"],
)
files(name="source", sources=["source.txt"])
shell_command(
    name="made",
    command="read line < source.txt && echo $line, made at the farm > result.txt",
    execution_dependencies=[":source"],
    output_files=["result.txt"],
    environment="farm",
)
"#;

/// Settings of the project. Without its daemon Pants keeps nothing in memory from one run to the next.
const SETTINGS: &str = r#"
[GLOBAL]
pants_version = "2.17.0"
backend_packages = ["pants.backend.shell"]
pantsd = false
remote_execution = true
remote_execution_address = "URL"
remote_cache_read = true
remote_cache_write = true
remote_store_address = "URL"

[stats]
log = true

[environments-preview.names]
farm = "//:farm"
"#;

/// A project, and a home directory with the local cache of Pants.
pub struct Pants {
    program: PathBuf,
    directory: TempDir,
}

/// Result of a build.
#[derive(Debug)]
pub struct PantsReport {
    /// Standard output and, after it, standard error.
    pub text: String,
    /// The file that the command made.
    pub result: String,
}

impl Pants {
    /// A project without any builds, for a server at `url`.
    pub fn new(program: PathBuf, url: &str) -> Self {
        let directory = TempDir::with_prefix("bitzel-pants-").expect("a temporary directory");
        std::fs::create_dir(directory.path().join("home")).expect("a directory");
        let project = directory.path().join("project");
        std::fs::create_dir(&project).expect("a directory");
        for (name, text) in [
            ("BUILD", BUILD.replace("CONTAINER_IMAGE", CONTAINER_IMAGE)),
            ("pants.toml", SETTINGS.replace("URL", url)),
            ("source.txt", "source\n".to_owned()),
        ] {
            std::fs::write(project.join(name), text).expect("a file of the project");
        }
        Self { program, directory }
    }

    /// Builds the target; panics unless that succeeds.
    pub fn build(&self) -> PantsReport {
        let project = self.directory.path().join("project");
        let output = Command::new("timeout")
            .args(["--kill-after=10", TIMEOUT_SECONDS])
            .arg(&self.program)
            .args(["--no-dynamic-ui", "export-codegen", ":made"])
            .env("HOME", self.directory.path().join("home"))
            .env_remove("XDG_CACHE_HOME")
            .env_remove("XDG_CONFIG_HOME")
            .current_dir(&project)
            .output()
            .expect("pants starts");
        let text = text_of(&output);
        assert!(output.status.success(), "pants failed:\n{text}");
        let result = project.join("dist/codegen/result.txt");
        let result =
            std::fs::read_to_string(result).unwrap_or_else(|error| panic!("no result: {error}\n{text}"));
        PantsReport { text, result }
    }

    /// Removes everything that Pants keeps on this machine, and what it built.
    pub fn remove_local_state(&self) {
        for name in ["home", "project/.pants.d", "project/dist"] {
            let path = self.directory.path().join(name);
            std::fs::remove_dir_all(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
        std::fs::create_dir(self.directory.path().join("home")).expect("a directory");
    }
}

impl PantsReport {
    /// A counter of Pants. It does not print those that it does not know.
    pub fn counter(&self, name: &str) -> Option<u64> {
        let mut words = self.text.split_whitespace();
        words.find(|word| word.strip_suffix(':') == Some(name))?;
        words.next()?.parse().ok()
    }
}
