//! Fakeroot tasks: owners, devices and hard links that later tasks see in other sandboxes.

use std::collections::BTreeSet;

use bitzel_tests::Site;

/// The FAKEROOT… variables of OE's bitbake.conf, with the pseudo of this machine instead of pseudo-native.
const SETTINGS: &str = r#"
LICENSE = "MIT"
FAKEROOTCMD ?= "/usr/bin/pseudo"
PSEUDO_LOCALSTATEDIR = "${WORKDIR}/pseudo/"
FAKEROOTENV = "PSEUDO_PREFIX=/usr PSEUDO_LOCALSTATEDIR=${PSEUDO_LOCALSTATEDIR} PSEUDO_NOSYMLINKEXP=1 PSEUDO_DISABLED=0"
FAKEROOTNOENV = "PSEUDO_UNLOAD=1"
FAKEROOTDIRS = "${PSEUDO_LOCALSTATEDIR}"
"#;

const OWNED: &str = r#"
fakeroot do_install() {
	install -d ${D}${bindir} ${D}/dev
	echo one > ${D}${bindir}/setuid
	echo two > ${D}${bindir}/plain
	chown 12:34 ${D}${bindir}/setuid
	chmod 4755 ${D}${bindir}/setuid
	mknod ${D}/dev/null c 1 3
	ln -s setuid ${D}${bindir}/link
}
do_package[noexec] = "1"
fakeroot do_deploy() {
	tar --numeric-owner --sort=name -C ${D} -cf - . | tar -tvf - --numeric-owner > ${DEPLOYDIR}/listing
	stat -c '%u' ${DEPLOYDIR}/listing >> ${DEPLOYDIR}/listing
}
"#;

#[test]
fn a_later_task_sees_owners_and_devices() {
    let site = Site::empty();
    site.add_recipe("owned", &format!("{SETTINGS}{OWNED}"));
    let output = site.path("output");
    let place = output.display().to_string();
    let report = site.build(&["--output", &place, "owned:do_deploy"]).succeeded();
    for task in ["owned:do_install", "owned:do_deploy"] {
        assert!(report.tasks("ran").contains(task), "{}", report.text);
    }
    let listing = std::fs::read_to_string(output.join("owned/listing")).expect("a listing");
    let entry = |name: &str| {
        let line = listing.lines().find(|line| line.contains(name));
        let line = line.unwrap_or_else(|| panic!("no {name} in:\n{listing}"));
        line.split_whitespace()
            .take(2)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(entry("./usr/bin/setuid"), ["-rwsr-xr-x", "12/34"]);
    assert_eq!(entry("./usr/bin/plain"), ["-rw-r--r--", "0/0"]);
    assert_eq!(entry("./usr/bin/link"), ["lrwxrwxrwx", "0/0"]);
    assert_eq!(entry("./dev/null"), ["crw-r--r--", "0/0"]);
    assert_eq!(
        listing.lines().last(),
        Some("0"),
        "the task is root to itself:\n{listing}"
    );

    let report = site.build(&["owned:do_deploy"]).succeeded();
    assert_eq!(report.tasks("ran"), BTreeSet::new());
}

/// Publishes the fakeroot program, as pseudo-native does.
const PROVIDER: &str = r#"
LICENSE = "MIT"
inherit native
do_install() {
	install -d ${D}${bindir}
	printf '#!/bin/sh\nexec /usr/bin/pseudo "$@"\n' > ${D}${bindir}/pseudo
	chmod 755 ${D}${bindir}/pseudo
}
"#;

/// Only the first of the two fakeroot tasks depends on the provider.
const TWO_TASKS: &str = r#"
FAKEROOTCMD = "${COMPONENTS_DIR}/fakeroot-native/usr/bin/pseudo"
do_install[depends] = "fakeroot-native:do_populate_sysroot"
fakeroot do_install() {
	install -d ${D}
	touch ${D}/file
	chown 12:34 ${D}/file
}
fakeroot do_multilib_install() {
	test "$(stat -c %u:%g ${D}/file)" = 12:34
}
addtask multilib_install after do_install
"#;

#[test]
fn a_later_task_sees_the_fakeroot_program() {
    let site = Site::empty();
    site.add_recipe("fakeroot-native", PROVIDER);
    site.add_recipe("library", &format!("{SETTINGS}{TWO_TASKS}"));
    let report = site.build(&["library:do_multilib_install"]).succeeded();
    assert!(
        report.tasks("ran").contains("library:do_multilib_install"),
        "{}",
        report.text
    );
}

/// Equal files, which a worker creates as hard links to one file, and two files that are hard links to each other.
const EQUAL_FILES: &str = r#"
fakeroot do_install() {
	install -d ${D}
	for name in one two three first; do
		echo same > ${D}/$name
		touch -d @1000000000 ${D}/$name
	done
	echo alone > ${D}/alone
	chown 12:34 ${D}/one ${D}/alone
	ln ${D}/first ${D}/second
	python3 -c 'import os, sys; os.setxattr(sys.argv[1], "user.colour", b"red")' ${D}/three
}
look() {
	test "$(stat -c %u:%g:%h ${D}/one)" = 12:34:1
	test "$(stat -c %u:%g:%h ${D}/two)" = 0:0:1
	test "$(stat -c %i:%h ${D}/first)" = "$(stat -c %i:2 ${D}/second)"
	test "$(cat ${D}/one ${D}/two ${D}/three ${D}/second | sort -u)" = same
	test "$(python3 -c 'import os, sys; print(os.getxattr(sys.argv[1], "user.colour"))' ${D}/three)" = "b'red'"
}
fakeroot do_look() {
	look
	chown 56:78 ${D}/two
	chmod 600 ${D}/two
	ln ${D}/alone ${D}/joined
	test "$(stat -c %u:%h ${D}/alone)" = 12:2
}
addtask look after do_install
fakeroot do_look_again() {
	test "$(stat -c %a:%u:%g ${D}/two)" = 600:56:78
	test "$(stat -c %u:%h ${D}/joined)" = 12:2
	chown 0:0 ${D}/two
	look
}
addtask look_again after do_look
"#;

#[test]
fn equal_files_are_separate_and_hard_links_stay() {
    let site = Site::empty();
    site.add_recipe("equal", &format!("{SETTINGS}{EQUAL_FILES}"));
    drop(site.build(&["equal:do_look_again"]).succeeded());
    let report = site.build(&["equal:do_look_again"]).succeeded();
    assert_eq!(report.tasks("ran"), BTreeSet::new());
}
