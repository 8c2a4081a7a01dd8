//! Tasks that think they are root: what one says about owners and devices, a later one in another sandbox sees.

use std::collections::BTreeSet;

use bitzel_tests::Site;

/// FAKEROOT… as OE's bitbake.conf sets them, with the pseudo of this machine in place of pseudo-native.
const RECIPE: &str = r#"
LICENSE = "MIT"
FAKEROOTCMD = "/usr/bin/pseudo"
PSEUDO_LOCALSTATEDIR = "${WORKDIR}/pseudo/"
FAKEROOTENV = "PSEUDO_PREFIX=/usr PSEUDO_LOCALSTATEDIR=${PSEUDO_LOCALSTATEDIR} PSEUDO_NOSYMLINKEXP=1 PSEUDO_DISABLED=0"
FAKEROOTNOENV = "PSEUDO_UNLOAD=1"
FAKEROOTDIRS = "${PSEUDO_LOCALSTATEDIR}"
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
fn owners_and_devices_come_along() {
    let site = Site::empty();
    site.add_recipe("owned", RECIPE);
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
