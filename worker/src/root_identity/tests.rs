use std::fs;

use tempfile::TempDir;

use super::*;

const OS_RELEASE: &str = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nVERSION_ID=\"12\"\n\
                          VERSION_CODENAME=bookworm\nHOME_URL=\"https://www.debian.org/\"\n";

/// A package in dpkg's database. `noise` is a field that differs between machines with the same package.
fn paragraph(name: &str, version: &str, state: &str, noise: &str) -> String {
    format!(
        "Package: {name}\nStatus: install ok {state}\nMaintainer: Somebody\nArchitecture: amd64\nVersion: {version}\n\
         Config-Version: {noise}\nConffiles:\n /etc/{name}.conf {noise}\nDescription: first line\n Version: 9 (not a field)\n\n"
    )
}

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Root with an os-release and a database of dpkg.
fn debian(os_release: &str, paragraphs: &[String]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "etc/os-release", os_release);
    write(root.path(), "var/lib/dpkg/status", &paragraphs.concat());
    root
}

/// Parts of a root without its tools, which are those of this machine in every test.
fn parts(root: &TempDir) -> RootParts {
    RootParts {
        os_release: OsRelease::read(root.path()).unwrap(),
        packages: packages::installed(root.path()).unwrap(),
        alternatives: alternatives::chosen(root.path()).unwrap(),
        tools: vec![],
    }
}

fn identity(root: &TempDir) -> RootIdentity {
    parts(root).identity()
}

#[test]
fn equal_packages_have_one_identity_on_every_machine() {
    let one = debian(
        OS_RELEASE,
        &[
            paragraph("gcc-12", "12.2.0-14", "installed", "installed in May"),
            paragraph("libc6", "2.36-9+deb12u10", "installed", "a"),
        ],
    );
    write(one.path(), "etc/hostname", "one\n");
    let reordered = debian(
        &format!("# a comment of the site\nSUPPORT_URL=https://site.example\n{OS_RELEASE}"),
        &[
            paragraph("libc6", "2.36-9+deb12u10", "triggers-pending", "b"),
            paragraph("gcc-12", "12.2.0-14", "installed", "installed in June"),
            paragraph("removed", "1", "config-files", "c"),
            paragraph("never", "1", "not-installed", "d"),
        ],
    );
    write(reordered.path(), "etc/hostname", "two\n");
    assert_eq!(identity(&one), identity(&reordered));
    assert!(
        identity(&one).as_str().starts_with("debian-12-"),
        "{}",
        identity(&one)
    );
}

#[test]
fn everything_that_makes_a_root_changes_its_identity() {
    let libc = paragraph("libc6", "2.36-9+deb12u10", "installed", "");
    let base = debian(OS_RELEASE, std::slice::from_ref(&libc));
    let mut identities = vec![identity(&base)];
    for root in [
        debian(OS_RELEASE, &[paragraph("libc6", "2.41-12", "installed", "")]),
        debian(OS_RELEASE, &[libc.replace("amd64", "arm64")]),
        debian(
            OS_RELEASE,
            &[libc.clone(), paragraph("zlib1g-dev", "1", "installed", "")],
        ),
        debian(OS_RELEASE, &[]),
        debian(
            &OS_RELEASE.replace("\"12\"", "\"13\""),
            std::slice::from_ref(&libc),
        ),
    ] {
        identities.push(identity(&root));
    }
    for target in ["/usr/bin/clang-14", "/usr/bin/clang-16"] {
        let root = debian(OS_RELEASE, std::slice::from_ref(&libc));
        write(root.path(), "etc/alternatives/README", "for people");
        std::os::unix::fs::symlink(target, root.path().join("etc/alternatives/clang")).unwrap();
        identities.push(identity(&root));
    }
    let mut with_tools = parts(&base);
    with_tools.tools = tools::find(true).unwrap();
    identities.push(with_tools.identity());
    for (index, identity) in identities.iter().enumerate() {
        assert!(!identities[..index].contains(identity), "{index}: {identity}");
    }
}

#[test]
fn reads_the_databases_of_alpine_and_arch() {
    let root = tempfile::tempdir().unwrap();
    write(
        root.path(),
        "lib/apk/db/installed",
        "C:Q1abc=\nP:musl\nV:1.2.5-r0\nA:x86_64\nt:1700000000\nF:lib\nR:libc.so\n\nP:gcc\nV:13.2.1-r3\nA:x86_64\n\n",
    );
    write(
        root.path(),
        "var/lib/pacman/local/glibc-2.40-1/desc",
        "%NAME%\nglibc\n\n%VERSION%\n2.40-1\n\n%ARCH%\nx86_64\n\n%INSTALLDATE%\n1700000000\n",
    );
    write(root.path(), "var/lib/pacman/local/ALPM_DB_VERSION", "9\n");
    let lines: Vec<String> = parts(&root).to_string().lines().map(str::to_owned).collect();
    assert_eq!(
        lines[1..],
        [
            "package apk gcc 13.2.1-r3 x86_64",
            "package apk musl 1.2.5-r0 x86_64",
            "package pacman glibc 2.40-1 x86_64"
        ]
    );
    assert!(
        identity(&root).as_str().starts_with("linux-"),
        "there is no os-release"
    );
}

#[test]
fn this_machine_has_the_same_identity_each_time() {
    let parts = RootParts::of_this_machine().unwrap();
    assert_eq!(parts, RootParts::of_this_machine().unwrap());
    let identity = parts.identity();
    assert_eq!(RootIdentity::new(identity.as_str()).unwrap(), identity);
}

#[test]
fn an_identity_is_a_short_plain_word() {
    for text in ["debian-12-0f", "registry.example/image@sha256:0f", "1"] {
        assert_eq!(RootIdentity::new(text).unwrap().as_str(), text);
    }
    let too_long = "x".repeat(MAX_LENGTH + 1);
    for text in ["", "two words", "line\n", "ä", &too_long] {
        assert!(RootIdentity::new(text).is_err(), "{text:?}");
    }
}
