# SPDX-License-Identifier: MIT
SUMMARY = "JSON library"
LICENSE = "MIT"

SRC_URI = "https://github.com/akheron/jansson/archive/refs/tags/v${PV}.tar.gz;downloadfilename=${BP}.tar.gz"
SRC_URI[sha256sum] = "c739578bf6b764aa0752db9a2fdadcfe921c78f1228c7ec0bb47fa804c55d17b"

inherit cmake

CMAKE_GENERATOR = "Unix Makefiles"
EXTRA_CMAKE = "-DJANSSON_BUILD_SHARED_LIBS=ON -DJANSSON_BUILD_DOCS=OFF -DJANSSON_EXAMPLES=OFF -DJANSSON_WITHOUT_TESTS=ON"
