# SPDX-License-Identifier: MIT
#
# The tasks of every recipe, in their order.
#
# A task that publishes results has the directory of its outputs in [sstate-inputdirs] and the published directory in
# [sstate-outputdirs], as in OpenEmbedded, and `publish` as its last post function.

inherit patch sysroot package

bbnote() {
	echo "NOTE: $*"
}

bbfatal() {
	echo "ERROR: $*" >&2
	exit 1
}

run_make() {
	make ${PARALLEL_MAKE} ${EXTRA_MAKE} "$@"
}
EXTRA_MAKE ?= ""

addtask fetch
do_fetch[dirs] = "${DL_DIR}"
do_fetch[network] = "1"
do_fetch[file-checksums] = "${@bb.fetch2.get_checksum_file_list(d)}"
python do_fetch() {
    bb.fetch2.Fetch((d.getVar("SRC_URI") or "").split(), d).download()
}

addtask unpack after do_fetch
do_unpack[cleandirs] = "${UNPACKDIR}"
python do_unpack() {
    bb.fetch2.Fetch((d.getVar("SRC_URI") or "").split(), d).unpack(d.getVar("UNPACKDIR"))
}

addtask configure after do_patch do_prepare_recipe_sysroot
do_configure[dirs] = "${B}"
do_configure() {
	:
}

addtask compile after do_configure
do_compile[dirs] = "${B}"
do_compile() {
	:
}

addtask install after do_compile
do_install[dirs] = "${B}"
do_install[cleandirs] = "${D}"
do_install() {
	bbfatal "${PN} does not say how to install itself"
}

addtask deploy after do_install
do_deploy[cleandirs] = "${DEPLOYDIR}"
do_deploy[sstate-inputdirs] = "${DEPLOYDIR}"
do_deploy[sstate-outputdirs] = "${DEPLOY_DIR}/${PN}"
do_deploy[postfuncs] += "publish"
do_deploy() {
	:
}

addtask build after do_populate_sysroot do_package do_deploy
do_build[noexec] = "1"
do_build() {
	:
}

addtask cleanall
do_cleanall[nostamp] = "1"
python do_cleanall() {
    for name in ("WORKDIR", "STAMPCLEAN"):
        bb.utils.remove(d.getVar(name), recurse=True)
}

# Gives the files of [sstate-inputdirs] fixed time stamps and publishes them.
python publish() {
    task = "do_" + d.getVar("BB_CURRENTTASK").removeprefix("do_")
    epoch = int(d.getVar("SOURCE_DATE_EPOCH"))
    sources = (d.getVarFlag(task, "sstate-inputdirs") or "").split()
    destinations = (d.getVarFlag(task, "sstate-outputdirs") or "").split()
    for source, destination in zip(sources, destinations, strict=True):
        bb.utils.remove(destination, recurse=True)
        bb.utils.mkdirhier(destination)
        link_tree(source, destination)
        for top in (source, destination):
            for directory, _, files in os.walk(top, topdown=False):
                for name in files:
                    os.utime(os.path.join(directory, name), (epoch, epoch), follow_symlinks=False)
                os.utime(directory, (epoch, epoch))
}

# Copies a tree by hard links, or by bytes between file systems. Returns the paths of all files, relative to the tree.
def link_tree(source, destination):
    import errno
    import shutil

    made = []
    for directory, directories, files in os.walk(source):
        relative = os.path.relpath(directory, source)
        for name in list(directories):
            path = os.path.join(directory, name)
            if os.path.islink(path):
                directories.remove(name)
                files.append(name)
            else:
                os.makedirs(os.path.join(destination, relative, name), exist_ok=True)
        for name in files:
            path = os.path.join(directory, name)
            target = os.path.normpath(os.path.join(destination, relative, name))
            try:
                os.link(path, target, follow_symlinks=False)
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
                    raise
                shutil.copy2(path, target, follow_symlinks=False)
            made.append(os.path.normpath(os.path.join(relative, name)))
    return made
