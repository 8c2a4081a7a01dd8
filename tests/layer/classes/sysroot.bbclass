# SPDX-License-Identifier: MIT
#
# Makes each recipe's own sysroot from the components of its dependencies.

# The directories of ${D} that other recipes can use.
SYSROOT_DIRS ?= "${includedir} ${libdir} ${datadir}/pkgconfig"

addtask prepare_recipe_sysroot after do_fetch
do_prepare_recipe_sysroot[deptask] = "do_populate_sysroot"
do_prepare_recipe_sysroot[cleandirs] = "${RECIPE_SYSROOT} ${RECIPE_SYSROOT_NATIVE}"
python do_prepare_recipe_sysroot() {
    owners = {}
    for name in reachable_components(d):
        native = name.endswith("-native")
        component = os.path.join(d.getVar("COMPONENTS_DIR"), name)
        if not os.path.isdir(component):
            bb.fatal("%s needs the sysroot component of %s, and %s is not there" % (d.getVar("PN"), name, component))
        sysroot = d.getVar("RECIPE_SYSROOT_NATIVE" if native else "RECIPE_SYSROOT")
        join_component(d, name, component, sysroot, owners)
        bb.note("%s is in %s" % (name, sysroot))
}

addtask populate_sysroot after do_install
do_populate_sysroot[cleandirs] = "${SYSROOT_DESTDIR}"
do_populate_sysroot[sstate-inputdirs] = "${SYSROOT_DESTDIR}"
do_populate_sysroot[sstate-outputdirs] = "${COMPONENTS_DIR}/${PN}"
do_populate_sysroot[postfuncs] += "publish"
python do_populate_sysroot() {
    for directory in d.getVar("SYSROOT_DIRS").split():
        source = d.getVar("D") + directory
        if os.path.isdir(source):
            destination = d.getVar("SYSROOT_DESTDIR") + directory
            os.makedirs(destination, exist_ok=True)
            link_tree(source, destination)
}

# The recipes whose components are in this recipe's sysroot: all transitive dependencies, except native tools that only
# the build of its libraries needed.
def reachable_components(d):
    tasks = d.getVar("BB_TASKDEPDATA", False)
    this = next(
        tid
        for tid, task in tasks.items()
        if task[0] == d.getVar("PN") and task[1] == "do_" + d.getVar("BB_CURRENTTASK").removeprefix("do_")
    )
    names = set()
    visited = set()
    todo = [(this, False)]
    while todo:
        tid, in_target = todo.pop()
        for dependency in tasks[tid][3]:
            if dependency not in tasks:
                continue
            name, task = tasks[dependency][0], tasks[dependency][1]
            inside = in_target
            if task == "do_populate_sysroot":
                native = name.endswith("-native")
                if native and in_target:
                    continue
                names.add(name)
                inside = in_target or not native
            if (dependency, inside) not in visited:
                visited.add((dependency, inside))
                todo.append((dependency, inside))
    return sorted(names)

# Adds one component to a sysroot. Two components may have the same path only with the same content.
def join_component(d, name, component, sysroot, owners):
    import filecmp

    for directory, directories, files in os.walk(component):
        entries = files + [entry for entry in directories if os.path.islink(os.path.join(directory, entry))]
        for entry in entries:
            source = os.path.join(directory, entry)
            target = os.path.join(sysroot, os.path.relpath(source, component))
            if not os.path.lexists(target):
                owners[target] = name
                continue
            if os.path.islink(source) or os.path.islink(target):
                same = (
                    os.path.islink(source)
                    and os.path.islink(target)
                    and os.readlink(source) == os.readlink(target)
                )
            else:
                same = filecmp.cmp(source, target, shallow=False)
            if not same:
                bb.fatal(
                    "%s and %s both provide %s, with different content, for the sysroot of %s"
                    % (owners[target], name, os.path.relpath(target, sysroot), d.getVar("PN"))
                )
            os.unlink(target)
    link_tree(component, sysroot)
