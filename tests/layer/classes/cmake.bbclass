# SPDX-License-Identifier: MIT
#
# A project with a CMakeLists.txt, built outside its source directory.

B = "${WORKDIR}/build"
CMAKE_GENERATOR ?= "Ninja"
EXTRA_CMAKE ?= ""

do_configure[cleandirs] = "${B}"
do_configure() {
	cmake -S ${S} -B ${B} -G "${CMAKE_GENERATOR}" -DCMAKE_INSTALL_PREFIX=${prefix} -DCMAKE_INSTALL_LIBDIR=lib \
		-DCMAKE_BUILD_TYPE=None -DCMAKE_PREFIX_PATH=${RECIPE_SYSROOT}${prefix} -DCMAKE_SKIP_RPATH=ON \
		${EXTRA_CMAKE}
}

do_compile() {
	cmake --build ${B} -- ${PARALLEL_MAKE}
}

do_install() {
	DESTDIR=${D} cmake --install ${B}
}
