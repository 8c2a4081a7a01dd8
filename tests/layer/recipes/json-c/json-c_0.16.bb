# SPDX-License-Identifier: MIT
SUMMARY = "JSON library with reference counted objects"
LICENSE = "MIT"

SRC_URI = "https://github.com/json-c/json-c/archive/refs/tags/json-c-0.16-20220414.tar.gz"
SRC_URI[sha256sum] = "3ecaeedffd99a60b1262819f9e60d7d983844073abc74e495cb822b251904185"
S = "${UNPACKDIR}/json-c-json-c-0.16-20220414"

inherit cmake

EXTRA_CMAKE = "-DBUILD_STATIC_LIBS=OFF -DBUILD_TESTING=OFF -DBUILD_APPS=OFF"
