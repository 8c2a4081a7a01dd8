# SPDX-License-Identifier: MIT
#
# Applies the *.patch files of SRC_URI in their order. Keeps copies of the applied files, so that the task can revert
# them when it runs again on the same tree.

addtask patch after do_unpack
do_patch[dirs] = "${WORKDIR}"
python do_patch() {
    import shutil
    import subprocess

    source = d.getVar("S")
    applied = os.path.join(d.getVar("UNPACKDIR"), "applied-patches")

    def run(patch, *options):
        command = ["patch", "-d", source, "-p1", "--no-backup-if-mismatch", "--batch", "-i", patch, *options]
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        bb.note(result.stdout)
        if result.returncode:
            bb.fatal("%s does not apply to %s:\n%s" % (os.path.basename(patch), d.getVar("PN"), result.stdout))

    if os.path.isdir(applied):
        for name in sorted(os.listdir(applied), reverse=True):
            run(os.path.join(applied, name), "-R")
        shutil.rmtree(applied)

    urls = (d.getVar("SRC_URI") or "").split()
    fetcher = bb.fetch2.Fetch(urls, d)
    patches = [fetcher.localpath(url) for url in urls if url.endswith(".patch")]
    for number, patch in enumerate(patches, start=1):
        run(patch)
        os.makedirs(applied, exist_ok=True)
        shutil.copyfile(patch, os.path.join(applied, "%03d-%s" % (number, os.path.basename(patch))))
}
