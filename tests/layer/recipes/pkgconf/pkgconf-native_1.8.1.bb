# SPDX-License-Identifier: MIT
SUMMARY = "Finds the compiler flags of libraries"
LICENSE = "ISC"

SRC_URI = "https://distfiles.ariadne.space/pkgconf/${BP}.tar.xz"
SRC_URI[sha256sum] = "644361ada2942be05655d4452eb018791647c31bba429b287f1f68deb2dc6840"

inherit autotools native

EXTRA_CONFIGURE = "--disable-shared --enable-static"

do_install:append() {
	ln -s pkgconf ${D}${bindir}/pkg-config
}
