# SPDX-License-Identifier: MIT
SUMMARY = "Fast compressor"
LICENSE = "BSD-2-Clause & GPL-2.0-or-later"

SRC_URI = "https://github.com/lz4/lz4/archive/refs/tags/v${PV}.tar.gz;downloadfilename=${BP}.tar.gz"
SRC_URI[sha256sum] = "0b0e3aa07c8c063ddf40b082bdf7e37a1562bda40a0ff5272957f3e987e0e54b"

inherit makefile

EXTRA_MAKE = "BUILD_STATIC=no"

do_compile() {
	run_make -C lib
	run_make -C programs lz4
}

BBCLASSEXTEND = "native"
