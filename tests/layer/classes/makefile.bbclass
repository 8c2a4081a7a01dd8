# SPDX-License-Identifier: MIT
#
# A project with a plain Makefile: it is built in its source directory.

B = "${S}"

do_compile() {
	run_make
}

do_install() {
	run_make install DESTDIR="${D}" PREFIX="${prefix}" prefix="${prefix}"
}
