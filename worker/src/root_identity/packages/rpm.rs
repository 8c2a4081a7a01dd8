//! Database of rpm. Its files have three formats (`SQLite`, ndb, Berkeley DB), so rpm itself is asked.

use std::path::Path;
use std::process::{Command, Stdio};

use super::Package;
use crate::error::Error;

/// Files of the database in its three formats, at its two places.
const FILES: [&str; 5] = [
    "usr/lib/sysimage/rpm/rpmdb.sqlite",
    "usr/lib/sysimage/rpm/Packages.db",
    "var/lib/rpm/rpmdb.sqlite",
    "var/lib/rpm/Packages.db",
    "var/lib/rpm/Packages",
];

/// Form in which rpm prints a package.
const QUERY_FORMAT: &str = "%{NAME}\t%|EPOCH?{%{EPOCH}:}|%{VERSION}-%{RELEASE}\t%{ARCH}\n";

/// Keys that rpm keeps in its database beside packages.
const PUBLIC_KEY: &str = "gpg-pubkey";

/// Packages that `program`, an rpm, lists. The error is one of input and output if it cannot be run.
pub(super) fn installed(root: &Path, program: &Path) -> Result<Vec<Package>, Error> {
    if !FILES.iter().any(|file| root.join(file).is_file()) {
        return Ok(vec![]);
    }
    let mut command = Command::new(program);
    command.arg("--root").arg(root);
    command.args(["--query", "--all", "--queryformat", QUERY_FORMAT]);
    command.stdin(Stdio::null()).stderr(Stdio::null());
    let output = match command.output() {
        Ok(output) if output.status.success() => output,
        Ok(output) => {
            let reason = format!("`rpm --query --all` ended with {}", output.status);
            return Err(Error::UnknownRoot(reason));
        }
        Err(error) => return Err(Error::io("run rpm, which lists the installed packages")(error)),
    };
    Ok(parse(&String::from_utf8_lossy(&output.stdout)))
}

fn parse(text: &str) -> Vec<Package> {
    let packages = text.lines().filter_map(|line| {
        let mut fields = line.split('\t').map(str::to_owned);
        Some(Package {
            manager: "rpm",
            name: fields.next()?,
            version: fields.next()?,
            architecture: fields.next()?,
        })
    });
    packages.filter(|package| package.name != PUBLIC_KEY).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_answer_of_rpm() {
        let answer = "glibc\t2.40-3.fc41\tx86_64\nshadow-utils\t2:4.15.1-12.fc41\tx86_64\n\
                      gpg-pubkey\te99d6ad1-64d2612c\t(none)\n";
        let packages: Vec<_> = parse(answer).iter().map(Package::to_string).collect();
        assert_eq!(
            packages,
            [
                "package rpm glibc 2.40-3.fc41 x86_64",
                "package rpm shadow-utils 2:4.15.1-12.fc41 x86_64"
            ]
        );
    }
}
