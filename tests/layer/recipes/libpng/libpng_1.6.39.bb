# SPDX-License-Identifier: MIT
SUMMARY = "PNG library"
LICENSE = "libpng-2.0"
DEPENDS = "zlib"

SRC_URI = "https://github.com/glennrp/libpng/archive/refs/tags/v${PV}.tar.gz;downloadfilename=${BP}.tar.gz"
SRC_URI[sha256sum] = "a00e9d2f2f664186e4202db9299397f851aea71b36a35e74910b8820e380d441"

inherit autotools

EXTRA_CONFIGURE = "--disable-static --disable-tools"
