# SPDX-License-Identifier: MIT
#
# Joins the packages of IMAGE_INSTALL into one root file system.

IMAGE_ROOTFS = "${WORKDIR}/rootfs"
IMAGE_INSTALL ?= ""

do_fetch[noexec] = "1"
do_unpack[noexec] = "1"
do_patch[noexec] = "1"
do_configure[noexec] = "1"
do_compile[noexec] = "1"
do_install[noexec] = "1"
do_populate_sysroot[noexec] = "1"
do_package[noexec] = "1"

addtask rootfs after do_prepare_recipe_sysroot before do_deploy
do_rootfs[cleandirs] = "${IMAGE_ROOTFS}"
do_rootfs[depends] = "${@' '.join('%s:do_package' % name for name in d.getVar('IMAGE_INSTALL').split())}"
python do_rootfs() {
    import json
    import tarfile

    owners = {}
    for name in sorted(d.getVar("IMAGE_INSTALL").split()):
        package = os.path.join(d.getVar("PACKAGES_DIR"), name)
        with open(os.path.join(package, "manifest.json"), encoding="utf-8") as stream:
            for entry in json.load(stream)["files"]:
                content = entry.get("sha256") or entry.get("link")
                if content is None:
                    continue
                other, known = owners.setdefault(entry["path"], (name, content))
                if known != content:
                    bb.fatal("The packages %s and %s both contain %s" % (other, name, entry["path"]))
        with tarfile.open(os.path.join(package, name + ".tar")) as archive:
            # The builder does not become the owner named in the archive: that needs root.
            # An attribute, not an argument: Python 3.11.2, which Debian 12 has, does not know the argument yet.
            archive.extraction_filter = getattr(tarfile, "tar_filter", None)
            archive.extractall(d.getVar("IMAGE_ROOTFS"))
    with open(os.path.join(d.getVar("WORKDIR"), "rootfs.json"), "w", encoding="utf-8") as stream:
        json.dump({path: owner for path, (owner, _) in sorted(owners.items())}, stream, indent=1)
        stream.write("\n")
}

do_deploy() {
	cp -a ${IMAGE_ROOTFS} ${DEPLOYDIR}/rootfs
	cp ${WORKDIR}/rootfs.json ${DEPLOYDIR}/${PN}.json
	tar -C ${IMAGE_ROOTFS} --sort=name --owner=0 --group=0 --numeric-owner --mtime=@${SOURCE_DATE_EPOCH} \
		--format=gnu -cf ${WORKDIR}/${PN}.tar .
	lz4 -9 -f -q ${WORKDIR}/${PN}.tar ${DEPLOYDIR}/${PN}.tar.lz4
}
