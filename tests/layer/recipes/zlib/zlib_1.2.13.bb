# SPDX-License-Identifier: MIT
SUMMARY = "Compression library"
LICENSE = "Zlib"

# Debian's own tarball: upstream's, less the contributions that Debian may not distribute.
SRC_URI = "https://snapshot.debian.org/archive/debian/20221106T000000Z/pool/main/z/zlib/zlib_1.2.13.dfsg.orig.tar.bz2"
SRC_URI[sha256sum] = "71feb7947e3c00ef125f83b79a4e529bde31171e5babe48b391f06758d1ab0a1"
S = "${UNPACKDIR}/zlib-${PV}.dfsg"

inherit makefile

# Zlib's configure script is written by hand and takes its flags from the environment.
do_configure() {
	./configure --prefix=${prefix} --libdir=${libdir} --shared
}

do_install() {
	run_make install DESTDIR="${D}"
	rm ${D}${libdir}/libz.a
}
