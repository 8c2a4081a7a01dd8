# SPDX-License-Identifier: MIT
SUMMARY = "Everything in this layer, in one root file system"
LICENSE = "MIT"
DEPENDS = "lz4-native"

inherit image

IMAGE_INSTALL = "bzip2 jansson json-c libpng lz4 picture-report zlib"
