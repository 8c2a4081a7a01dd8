//! `bitzel root make`: a root file system from Debian packages.

use std::fs;
use std::io;
use std::process::{ExitCode, Stdio};

use bitzel_bitbake::DEFAULT_SOURCE_DATE_EPOCH;
use tokio::process::Command;

use super::import::import_root;
use crate::arguments::RootMakeArguments;
use crate::command_error::CommandError;
use crate::directories::Directories;

/// Packages that OpenEmbedded asks for on a build host.
const PACKAGES: &str = include_str!("make/debian-packages.txt");

/// Steps in the finished root, `$1`. They remove what differs from one run to the next, or from machine to machine.
const HOOKS: [&str; 3] = [
    // BitBake of releases before 5.2 starts with this locale only.
    r#"if [ -e "$1/usr/bin/localedef" ] && [ -e "$1/usr/share/i18n/locales/en_US" ]; then chroot "$1" localedef --force --inputfile en_US --charmap UTF-8 en_US.UTF-8; fi"#,
    r#"find "$1/var/log" "$1/var/cache" "$1/var/lib/apt/lists" "$1/tmp" "$1/var/tmp" "$1/run" -mindepth 1 -delete"#,
    r#"rm -f "$1/etc/machine-id" "$1/var/lib/dbus/machine-id" "$1/etc/hostname" "$1/etc/resolv.conf" "$1/etc/.pwd.lock" "$1/var/lib/systemd/random-seed" "$1"/etc/*- "$1"/var/lib/dpkg/*-old "$1"/var/lib/apt/extended_states"#,
];
/// Documents that no task reads.
const DPKG_OPTIONS: [&str; 4] = [
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
];

/// Makes a root, and imports it.
pub(super) async fn run(
    directories: &Directories,
    arguments: RootMakeArguments,
) -> Result<ExitCode, CommandError> {
    let list = match &arguments.package_list {
        None => PACKAGES.to_owned(),
        Some(path) => fs::read_to_string(path)
            .map_err(|error| CommandError::from(error).context(format!("cannot read {}", path.display())))?,
    };
    let packages: Vec<String> = packages(&list)
        .chain(arguments.packages.iter().map(String::as_str))
        .map(str::to_owned)
        .collect();
    let temporary = tempfile::Builder::new()
        .prefix("root-make-")
        .tempdir_in(directories.roots().temporary()?)?;
    let archive = temporary.path().join("root.tar");
    let mut command = Command::new("mmdebstrap");
    command.args(["--variant=minbase", "--format=tar"]);
    command.arg(format!("--include={}", packages.join(",")));
    command.args(DPKG_OPTIONS.map(|option| format!("--dpkgopt={option}")));
    command.args(HOOKS.map(|hook| format!("--customize-hook={hook}")));
    command
        .arg(&arguments.suite)
        .arg(&archive)
        .args(&arguments.mirror);
    if std::env::var_os("SOURCE_DATE_EPOCH").is_none() {
        command.env("SOURCE_DATE_EPOCH", DEFAULT_SOURCE_DATE_EPOCH.to_string());
    }
    // Postinst scripts take languages and file names from these.
    command.env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
    // Standard output is for the digest.
    let status = command
        .stdin(Stdio::null())
        .stdout(io::stderr())
        .kill_on_drop(true)
        .status()
        .await
        .map_err(|error| {
            CommandError::from(error)
                .context("cannot run mmdebstrap")
                .hint("install it (Debian, Ubuntu: apt install mmdebstrap), or import a root with `bitzel root import`")
        })?;
    if !status.success() {
        return Err(CommandError::new(format!("mmdebstrap ended with {status}")).hint(
            "its messages above have the reason; without root it needs user namespaces and /etc/subuid",
        ));
    }
    let mut source = format!("bitzel root make --suite {}", arguments.suite);
    for mirror in &arguments.mirror {
        source += &format!(" --mirror {mirror}");
    }
    for package in &arguments.packages {
        source += &format!(" --package {package}");
    }
    if let Some(path) = &arguments.package_list {
        source += &format!(" --package-list {}", path.display());
    }
    import_root(directories, &arguments.remote, &archive, arguments.name, source).await
}

/// Names in a list: one a line, `#` starts a comment.
fn packages(list: &str) -> impl Iterator<Item = &str> {
    list.lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_what_bitbake_needs() {
        let packages: Vec<&str> = packages(PACKAGES).collect();
        for name in [
            "python3", "gcc", "g++", "make", "gawk", "patch", "chrpath", "diffstat", "lz4", "zstd",
        ] {
            assert!(packages.contains(&name), "{name}");
        }
        let is_name = |name: &&str| {
            name.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
        };
        assert!(packages.iter().all(is_name), "{packages:?}");
        assert!(packages.is_sorted());
    }
}
