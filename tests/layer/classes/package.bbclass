# SPDX-License-Identifier: MIT
#
# Packs what a recipe installed into an archive, with a list of every file and its checksum.

addtask package after do_install
do_package[cleandirs] = "${PKGDEST}"
do_package[sstate-inputdirs] = "${PKGDEST}"
do_package[sstate-outputdirs] = "${PACKAGES_DIR}/${PN}"
do_package[postfuncs] += "publish"
python do_package() {
    import hashlib
    import json
    import tarfile

    image, destination = d.getVar("D"), d.getVar("PKGDEST")
    epoch = int(d.getVar("SOURCE_DATE_EPOCH"))
    paths = []
    for directory, directories, files in os.walk(image):
        paths += [os.path.relpath(os.path.join(directory, name), image) for name in directories + files]

    def anonymous(member):
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        member.mtime = epoch
        return member

    manifest = []
    with tarfile.open(os.path.join(destination, d.getVar("PN") + ".tar"), "w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(paths):
            full = os.path.join(image, path)
            archive.add(full, arcname=path, recursive=False, filter=anonymous)
            entry = {"path": path, "mode": "%04o" % (os.lstat(full).st_mode & 0o7777)}
            if os.path.islink(full):
                entry["link"] = os.readlink(full)
            elif os.path.isfile(full):
                with open(full, "rb") as stream:
                    entry["sha256"] = hashlib.sha256(stream.read()).hexdigest()
            manifest.append(entry)
    with open(os.path.join(destination, "manifest.json"), "w", encoding="utf-8") as stream:
        json.dump({"name": d.getVar("PN"), "version": d.getVar("PV"), "files": manifest}, stream, indent=1)
        stream.write("\n")
}
