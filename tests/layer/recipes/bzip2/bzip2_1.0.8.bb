# SPDX-License-Identifier: MIT
SUMMARY = "Block sorting compressor"
LICENSE = "bzip2-1.0.6"

SRC_URI = "https://sourceware.org/pub/bzip2/${BP}.tar.gz \
           file://install-below-destdir.patch"
SRC_URI[sha256sum] = "ab5a03176ee106d3f0fa90e381da478ddae405918153cca248e682cd0c4a2269"

inherit makefile

EXTRA_MAKE = "CFLAGS='${CFLAGS} -D_FILE_OFFSET_BITS=64' LDFLAGS='${LDFLAGS}'"

do_compile() {
	run_make libbz2.a bzip2 bzip2recover
}
