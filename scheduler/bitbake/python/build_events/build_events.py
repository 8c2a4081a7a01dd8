# SPDX-License-Identifier: GPL-2.0-only
"""Events of BitBake's server at the start and at the end of a build, for the metadata's event handlers.

Runs on the client beside the build, in the sandbox of the exporter, with a directory of the user's at /work/build.
There the handlers of BuildCompleted find what tasks left beside their results, and leave their own files. Fires
BuildStarted, waits for one line on stdin, fires BuildCompleted and ends.

usage: build_events.py SETTINGS

SETTINGS is a JSON document: {"bases": {"": "SHA-256 of the base snapshot"}, "targets": ["zlib", ...]}. The line on
stdin is {"tasks": 12, "failed": 0, "interrupted": false}.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import time
import warnings
from pathlib import Path
from typing import Any

ROOT = Path("/work")
SNAPSHOTS = ROOT / "out/snapshots"
# Statistics of tasks that ran, by recipe, as OE's buildstats.bbclass wrote them on the workers.
TASK_STATISTICS = ROOT / "build/task-statistics"
# Texts that tasks appended to files, as PATH/RECIPE:TASK (runner/undeclared_files.py).
APPENDED_TEXTS = ROOT / "build/bitzel-appended"
PROGRAMS = "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Handlers that would download programs for the client; tasks use the programs of the worker.
SKIPPED_HANDLERS = frozenset({"uninative_event_fetchloader"})

Document = dict[str, Any]


def restore(name: str, started: time.struct_time) -> Any:
    """The data store of a configuration, with its event handlers registered."""
    import data_store
    import metadata_functions
    import one_task

    base = data_store.decode((SNAPSHOTS / name).read_bytes())
    data = one_task.restore(base, data_store.unchanged(base))
    one_task.import_libraries(data, base)
    metadata_functions.define(data)
    metadata_functions.register_handlers(data)
    # The programs of this sandbox; the metadata's PATH has links that only a task makes.
    data.setVar("PATH", PROGRAMS)
    data.setVar("DATE", time.strftime("%Y%m%d", started))
    data.setVar("TIME", time.strftime("%H%M%S", started))
    data.setVar("BUILDNAME", time.strftime("%Y%m%d%H%M%S", started))
    data.setVar("BUILDSTART", time.strftime("%m/%d/%Y %H:%M:%S", started))
    return data


def fire(event: Any, stores: list[Any]) -> None:
    """Calls the handlers of an event in every configuration; an error in one is a message, as in BitBake's server."""
    import bb.event

    for data in stores:
        try:
            bb.event.fire_class_handlers(event, data)
        except Exception as error:
            logging.getLogger("BitBake").error(
                "a handler of %s failed: %s", type(event).__name__, error, exc_info=error
            )


def place_statistics(data: Any) -> None:
    """Moves the statistics of tasks to the directory of this build that buildstats.bbclass would have written."""
    base = data.getVar("BUILDSTATS_BASE")
    if base and TASK_STATISTICS.is_dir():
        directory = Path(os.path.normpath(base)) / data.getVar("BUILDNAME")
        shutil.copytree(TASK_STATISTICS, directory, dirs_exist_ok=True)
    shutil.rmtree(TASK_STATISTICS, ignore_errors=True)


def place_appended_texts() -> None:
    """Gives each file to which tasks appended the texts of all of them, in the order of their names."""
    for directory, _, names in os.walk(APPENDED_TEXTS):
        if names:
            path = ROOT / "build" / Path(directory).relative_to(APPENDED_TEXTS)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            path.write_bytes(b"".join((Path(directory) / name).read_bytes() for name in sorted(names)))
    shutil.rmtree(APPENDED_TEXTS, ignore_errors=True)


def main(text: str) -> None:
    warnings.simplefilter("ignore")
    import bb
    import bb.event
    import bb.msg

    settings = json.loads(text)
    bb.event._uiready = True
    bb.msg.logger_create("BitBake", sys.stderr)
    logging.getLogger("BitBake").setLevel(logging.WARNING)
    os.chdir(ROOT / "build")
    # Left by a build that was killed.
    shutil.rmtree(APPENDED_TEXTS, ignore_errors=True)
    started = time.localtime()
    stores = [restore(name, started) for _, name in sorted(settings["bases"].items())]
    os.environ["PATH"] = PROGRAMS
    bb.event.set_eventfilter(lambda name, *_: name not in SKIPPED_HANDLERS)
    build_name = stores[0].getVar("BUILDNAME")
    fire(bb.event.BuildStarted(build_name, settings["targets"]), stores)
    line = sys.stdin.readline()
    if not line:
        # bitzel was killed; there is nobody to whom the build could be complete.
        return
    end = json.loads(line)
    place_statistics(stores[0])
    place_appended_texts()
    completed = bb.event.BuildCompleted(
        end["tasks"], build_name, settings["targets"], end["failed"], end["interrupted"]
    )
    fire(completed, stores)


if __name__ == "__main__":
    main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
