# SPDX-License-Identifier: GPL-2.0-only
"""One task's life: restore the recipe's data store, check its signature, set up, execute, clean up.

What bin/bitbake-worker does between reading a task off its pipe and bb.build.exec_task (fork_off_task), without the
pipe, the cooker and the parse.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import bb

import bb.progress  # isort: skip  (before bb.build, which it imports in a circle)
import aftermath
import basehash
import bb.build
import bb.data_smart
import bb.event
import bb.msg
import bb.parse
import bb.siggen
import bb.utils
import data_store
import fakeroot
import lazy_imports
import metadata_functions
import special_files
import task_releases
from beside import SharedPlaces

ROOT = Path("/work")
HERE = ROOT / "bitzel"
SIGNATURE_DIFFERS = 97

Document = dict[str, Any]


def read(name: str) -> Document:
    document: Document = json.loads((HERE / name).read_bytes())
    return document


def restore(base: Document, recipe: Document) -> Any:
    """The recipe's data store, as its parse left it."""
    data = bb.data_smart.DataSmart()
    original_environment = bb.data_smart.DataSmart()
    for name, value in base["original_environment"].items():
        original_environment.setVar(name, value)
    data_store.restore(data, base, recipe)
    task_releases.set_upstream_revisions(data, recipe.get("upstream_revisions") or {})
    data.setVar("BB_ORIGENV", original_environment)
    return data


def import_libraries(data: Any, base: Document) -> None:
    """What `addpylib` lines import, into the namespace of the metadata's Python (bb.parse.ast.PyLibNode)."""
    context = bb.utils.get_context()
    for module in (data.getVar("BB_GLOBAL_PYMODULES") or "").split():
        context[module] = __import__(module)
    for directory, namespace, *modules in base["python_libraries"]:
        if directory not in sys.path:
            sys.path.append(directory)
        lazy_imports.FINDER.names.update(f"{namespace}.{module}" for module in modules)
        context[namespace] = __import__(namespace)
        for module in modules:
            context[namespace] = __import__(f"{namespace}.{module}")
    for module in base["registering_modules"]:
        # Any use of a lazy module executes it.
        dir(sys.modules[module])
    for name, entry in base["module_dependencies"].items():
        task_releases.define_module_dependencies(name, entry, visit_call)


def visit_call(name: str, arguments: Any) -> Any:
    """A function's own reading of what calls of it depend on (bb.codeparser.PythonParser.visit_Call)."""
    module, function = name.rsplit(".", 1)
    return getattr(sys.modules[module], function).visitorcode(name, arguments)


def set_up_host_tools(data: Any) -> None:
    """The directory of links to permitted programs of the host, which the metadata's PATH consists of.

    The parse of the configuration makes it (base_eventhandler in OE's base.bbclass); the metadata's own function is
    called, because it also knows which links have to be scripts.
    """
    directory, make = data.getVar("HOSTTOOLS_DIR"), bb.utils.get_context().get("setup_hosttools_dir")
    if directory and make:
        make(directory, "HOSTTOOLS", data)
        make(directory, "HOSTTOOLS_NONFATAL", data, fatal=False)


def task_dependency_data(dependencies: Document) -> dict[str, Any]:
    return {
        tid: bb.TaskData(
            pn=pn,
            taskname=name,
            fn=file,
            deps=set(needed),
            provides=provides,
            taskhash=taskhash,
            unihash=unihash,
            hashfn=hash_filename,
            taskhash_deps=set(taskhash_dependencies),
        )
        for tid, (
            pn,
            name,
            file,
            needed,
            provides,
            taskhash,
            unihash,
            hash_filename,
            taskhash_dependencies,
        ) in dependencies.items()
    }


def load_signatures(data: Any, task: Document, dependencies: Document) -> None:
    """Of what the signature generator of a build knows, what concerns this task and its dependencies."""
    generator = bb.siggen.init(data)
    bb.parse.siggen = generator
    own = f"{task['recipe']}:{task['task']}"
    generator.runtaskdeps = {
        tid: [(entry[0], needed) for needed in entry[3]] for tid, entry in dependencies.items()
    }
    generator.taskhash = {tid: entry[5] for tid, entry in dependencies.items()}
    generator.unihash = {tid: entry[6] for tid, entry in dependencies.items()}
    generator.tidtopn = {tid: entry[0] for tid, entry in dependencies.items()}
    generator.basehash = {own: task["basehash"]}
    generator.file_checksum_values = {
        own: [(file["path"], file["checksum"] or None) for file in task["file_checksums"]]
    }
    generator.taints = {own: task["taint"]} if task["taint"] else {}
    generator.setup_datacache_from_datastore(task["recipe"], data)


def set_up(data: Any, task: Document, dependencies: Document) -> None:
    """What fork_off_task sets for every task, in its order."""
    name = task["task"]
    if task["umask"]:
        os.umask(int(task["umask"], 8))
    data.setVar("BB_WORKERCONTEXT", "1")
    data.setVar("BB_TASKDEPDATA", task_dependency_data(dependencies))
    data.setVar("BB_CURRENTTASK", name.replace("do_", ""))
    data.setVar("BUILDNAME", task["build_name"])
    data.setVar("DATE", task["date"])
    data.setVar("TIME", task["time"])
    data.setVar("PRSERV_HOST", "")
    data.setVar("BB_TASKHASH", task["taskhash"])
    data.setVar("BB_UNIHASH", task["unihash"])
    load_signatures(data, task, dependencies)
    # Outputs travel by digest: no archive is made, but everything around its making (relocation, manifests) is kept.
    if data.getVar("sstate_create_and_sign_package", False) is not None:
        data.setVar("sstate_create_and_sign_package", "    pass\n")
    exported = dict(bb.data.exported_vars(data))
    bb.utils.empty_environment()
    os.environ.update(exported)
    text = task["fakeroot_environment"] if task["fakeroot"] else task["fakeroot_no_environment"]
    for variable, value in fakeroot.variables(text).items():
        os.environ[variable] = value
        data.setVar(variable, value)
        data.setVarFlag(variable, "export", "1")
    for variable in (data.getVarFlag(name, "exports") or "").split():
        data.setVarFlag(variable, "export", "1")
        value = data.getVar(variable)
        if value is not None:
            os.environ[variable] = value


def write_build_files(base: Document) -> list[Path]:
    """What the metadata wrote when the build started (Cooker.files_of_build_start)."""
    written = []
    for name, text in base["build_files"].items():
        path = Path(name)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            written.append(path)
    return written


def run(task: Document) -> int:
    dependencies = read("dependencies.json")
    base, recipe = read("base.json"), read("recipe.json")
    # While the task runs, the descriptors 1 and 2 are its log; messages shall be in there once, and out here.
    bb.msg.logger_create("BitBake", os.fdopen(os.dup(sys.stderr.fileno()), "w", buffering=1))
    logging.getLogger("BitBake").setLevel(logging.WARNING)
    # Events go to nobody; without a UI bb.event would keep them for one that comes later.
    bb.event._uiready = True
    os.chdir(ROOT / "build")
    bb.utils.clean_environment()
    data = restore(base, recipe)
    import_libraries(data, base)
    metadata_functions.define(data)
    found = basehash.of_task(data, task["task"], task["recipe"])
    if found != task["basehash"]:
        sys.stderr.write(
            f"{task['package_name']}:{task['task']}: the metadata in the sandbox gives basehash {found}, the graph "
            f"has {task['basehash']}; export the graph again, and check that the metadata is deterministic\n"
        )
        return SIGNATURE_DIFFERS
    set_up_host_tools(data)
    metadata_functions.register_handlers(data)
    set_up(data, task, dependencies)
    # Whether a task is up to date is the action cache's business; stamps would only be noise in the outputs.
    bb.build.make_stamp = lambda _task, _data: None
    # Likewise what explains signatures: bitzel has it in the graph.
    bb.siggen.dump_this_task = lambda _file, _data: None
    staged = aftermath.staged_files(task)
    build_files = write_build_files(base)
    shared = SharedPlaces(data, task)
    special_files.put_back(task)
    if task["fakeroot"]:
        fakeroot.apply_ownership(task)
    status = int(bb.build.exec_task(task["recipe"], task["task"], data, False))
    sys.stdout.flush()
    if task["fakeroot"]:
        fakeroot.write_ownership(task)
    if status != 0:
        aftermath.show_failure(task)
    aftermath.clean_up(data, task, build_files, staged, shared)
    return status
