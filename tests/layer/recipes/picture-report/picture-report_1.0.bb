# SPDX-License-Identifier: MIT
SUMMARY = "Writes a PNG picture, reads it back and reports on it as JSON"
LICENSE = "MIT"
DEPENDS = "libpng zlib jansson pkgconf-native"

SRC_URI = "file://picture-report.c file://Makefile"
S = "${UNPACKDIR}"

inherit makefile
