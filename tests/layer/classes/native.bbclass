# SPDX-License-Identifier: MIT
#
# A tool that runs in the build, from recipe-sysroot-native.

CLASSOVERRIDE = "class-native"

SYSROOT_DIRS = "${bindir} ${includedir} ${libdir} ${datadir}"
# A native tool depends on other native components.
RECIPE_SYSROOT = "${RECIPE_SYSROOT_NATIVE}"

python () {
    names = (d.getVar("DEPENDS") or "").split()
    d.setVar("DEPENDS", " ".join(name if name.endswith("-native") else name + "-native" for name in names))
}
