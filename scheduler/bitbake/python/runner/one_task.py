# SPDX-License-Identifier: GPL-2.0-only
"""Execution of one task: restore the recipe's data store, check the signature, set up, execute, clean up.

Does the work of bin/bitbake-worker between reading a task from its pipe and bb.build.exec_task (fork_off_task),
without the pipe, the cooker and the parse.
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
import basehash
import bb.build
import bb.data_smart
import bb.event
import bb.msg
import bb.parse
import bb.siggen
import bb.utils
import cleanup
import client_fetch
import data_store
import fakeroot
import lazy_imports
import metadata_functions
import special_files
import task_releases
import terminal
from undeclared_files import SharedDirectories

ROOT = Path("/work")
RUNNER = ROOT / "bitzel"
# Tables of the shell parser, which BitBake writes into its own library if a fresh checkout does not have them.
PARSER_TABLES = ROOT / "bitbake/lib/bb/pysh/pyshtables.py"
HAS_PARSER_TABLES = PARSER_TABLES.exists()
EXIT_SIGNATURE_DIFFERS = 97

Document = dict[str, Any]


def read(name: str) -> Document:
    """One of the JSON files of the task."""
    document: Document = json.loads((RUNNER / name).read_bytes())
    return document


def restore(base: Document, recipe: Document) -> Any:
    """The recipe's data store in the state after its parse."""
    data = bb.data_smart.DataSmart()
    original_environment = bb.data_smart.DataSmart()
    for name, value in base["original_environment"].items():
        original_environment.setVar(name, value)
    data_store.restore(data, base, recipe)
    task_releases.set_upstream_revisions(data, recipe.get("upstream_revisions") or {})
    data.setVar("BB_ORIGENV", original_environment)
    return data


def import_libraries(data: Any, base: Document) -> None:
    """Imports the modules of `addpylib` lines into the namespace of the metadata's Python (bb.parse.ast.PyLibNode)."""
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
        # Any access to a lazy module executes it.
        dir(sys.modules[module])
    for name, entry in base["module_dependencies"].items():
        task_releases.define_module_dependencies(name, entry, visit_call)


def visit_call(name: str, arguments: Any) -> Any:
    """Dependencies of a call, as the called function itself computes them (bb.codeparser.PythonParser.visit_Call)."""
    module, function = name.rsplit(".", 1)
    return getattr(sys.modules[module], function).visitorcode(name, arguments)


def set_up_host_tools(data: Any) -> None:
    """Makes the directory of links to permitted programs of the host, which is the metadata's PATH.

    In BitBake the parse of the configuration makes it (base_eventhandler in OE's base.bbclass). This calls the
    metadata's own function, because that also knows which links have to be scripts.
    """
    directory, make = data.getVar("HOSTTOOLS_DIR"), bb.utils.get_context().get("setup_hosttools_dir")
    if directory and make:
        make(directory, "HOSTTOOLS", data)
        make(directory, "HOSTTOOLS_NONFATAL", data, fatal=False)


def task_dependency_data(dependencies: Document) -> dict[str, Any]:
    """Value of BB_TASKDEPDATA."""
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
    """Fills the signature generator with the data of this task and its dependencies."""
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


def executed_task(task: Document) -> str:
    """Name of the task that BitBake executes: the task, or its setscene task, which restores its results."""
    name: str = task["task"]
    return f"{name}_setscene" if task["setscene"] else name


def set_up(data: Any, task: Document, dependencies: Document) -> None:
    """Sets umask, variables and environment as fork_off_task does, in its order."""
    if task["umask"]:
        os.umask(int(task["umask"], 8))
    data.setVar("BB_WORKERCONTEXT", "1")
    data.setVar("BB_TASKDEPDATA", task_dependency_data(dependencies))
    data.setVar("BB_CURRENTTASK", executed_task(task).replace("do_", ""))
    data.setVar("BUILDNAME", task["build_name"])
    data.setVar("DATE", task["date"])
    data.setVar("TIME", task["time"])
    data.setVar("PRSERV_HOST", "")
    data.setVar("BB_TASKHASH", task["taskhash"])
    data.setVar("BB_UNIHASH", task["unihash"])
    load_signatures(data, task, dependencies)
    if task["setscene"]:
        # The client has verified the archive, by the user's keys, and this is the archive by its digest.
        data.setVar("SSTATE_VERIFY_SIG", "0")
    # Outputs are stored by digest, so no sstate archive is made; all steps around it (relocation, manifests) still run.
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
    for variable in (data.getVarFlag(executed_task(task), "exports") or "").split():
        data.setVarFlag(variable, "export", "1")
        value = data.getVar(variable)
        if value is not None:
            os.environ[variable] = value


def write_build_files(base: Document) -> list[Path]:
    """Writes the files of the build's start (Cooker.files_of_build_start); returns those that were not there."""
    written = []
    for name, text in base["build_files"].items():
        path = Path(name)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            written.append(path)
    return written


def run(task: Document) -> int:
    """Runs the task and returns the exit code of the runner."""
    dependencies = read("dependencies.json")
    base, recipe = read("base.json"), read("recipe.json")
    # While the task runs, descriptors 1 and 2 are its log. The copy of stderr gives messages a way out, and the log
    # still has each message only once.
    bb.msg.logger_create("BitBake", os.fdopen(os.dup(sys.stderr.fileno()), "w", buffering=1))
    logging.getLogger("BitBake").setLevel(logging.WARNING)
    # No UI receives events; without this bb.event would queue them for a UI that starts later.
    bb.event._uiready = True
    os.chdir(ROOT / "build")
    terminal_type = os.environ.get(terminal.TYPE_VARIABLE)
    fetch_environment = os.environ.get(client_fetch.ENVIRONMENT_VARIABLE)
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
        return EXIT_SIGNATURE_DIFFERS
    set_up_host_tools(data)
    metadata_functions.register_handlers(data)
    set_up(data, task, dependencies)
    if terminal_type:
        terminal.attach(data, terminal_type)
    if fetch_environment:
        client_fetch.apply(data, fetch_environment)
    # The action cache decides if a task is up to date; stamps would only be noise in the outputs.
    bb.build.make_stamp = lambda _task, _data: None
    # Nor are files that explain signatures written: the graph has the same data.
    bb.siggen.dump_this_task = lambda _file, _data: None
    staged = cleanup.staged_files(task)
    downloads = cleanup.downloads(data)
    build_files = write_build_files(base)
    if not HAS_PARSER_TABLES:
        build_files.append(PARSER_TABLES)
    shared = SharedDirectories(data, task)
    special_files.restore(task)
    foreign_special_files = special_files.restore_foreign(task)
    if task["fakeroot"]:
        fakeroot.apply_ownership(task)
    shared.appended.watch()
    status = int(bb.build.exec_task(task["recipe"], executed_task(task), data, False))
    sys.stdout.flush()
    if task["fakeroot"]:
        fakeroot.write_ownership(task)
    if status != 0:
        cleanup.show_failure(task)
    special_files.remove_restored(foreign_special_files)
    cleanup.clean_up(data, task, build_files, staged, shared, downloads)
    return status
