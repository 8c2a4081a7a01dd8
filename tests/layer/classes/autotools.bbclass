# SPDX-License-Identifier: MIT
#
# A project with a configure script, built outside its source directory.

B = "${WORKDIR}/build"
EXTRA_CONFIGURE ?= ""
export CONFIG_SHELL = "/bin/sh"

do_configure[cleandirs] = "${B}"
do_configure() {
	${S}/configure --prefix=${prefix} --libdir=${libdir} --sysconfdir=${sysconfdir} --mandir=${mandir} \
		--disable-dependency-tracking ${EXTRA_CONFIGURE}
}

do_compile() {
	run_make
}

do_install() {
	run_make install DESTDIR="${D}"
	# Libtool archives name the build's own directories; pkg-config files serve the same purpose.
	find ${D} -name '*.la' -delete
}
