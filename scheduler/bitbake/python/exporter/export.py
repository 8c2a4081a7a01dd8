# SPDX-License-Identifier: GPL-2.0-only
"""Entry point of the exporter: writes BitBake's task graph for a request.

Runs in a sandbox whose paths are the same on every machine.

usage: export.py REQUEST

REQUEST is a JSON file: {"request": {"targets": [...], "task": "compile" or null, "run_all": [...], "run_only": [...],
"force": false, "invalidate": "compile" or null}, "source_date_epoch": 1520598896, "code_digest": "...",
"external_sources": [{"path": "/home/me/src/zlib", "sandbox_path": "external/zlib"}]}.

The graph goes to /work/out/graph.json, snapshots that are not in /work/known to /work/out/snapshots, and the list of
the Python packages that tasks need to /work/out/packages.json. Stdout gets the name of each phase, one word a
line, and "uncacheable" if the graph depends on more than the metadata. BitBake's messages go to stderr. Exit code 1:
BitBake refused the request.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from pathlib import Path

GRAPH = Path("/work/out/graph.json")
PACKAGES = Path("/work/out/packages.json")


def report(phase: str) -> None:
    """Prints the phase that starts now."""
    print(phase, flush=True)


def main(request_file: str) -> int:
    warnings.simplefilter("ignore")
    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    report("configuration")
    import bb
    import external_sources
    import graph
    from cooker import Cooker, Failed
    from python_libraries import python_libraries
    from recipes import RecipeExporter

    try:
        external_sources.install(request["external_sources"])
        cooker = Cooker(request["source_date_epoch"])
        exporter = RecipeExporter(cooker, request["code_digest"] + json.dumps(request["external_sources"]))
        report("parsing")
        cooker.parse()
        report("run-queue")
        queue = cooker.run_queue(request["request"])
        recipes = {bb.runqueue.split_tid_mcfn(tid)[3] for tid in queue.runtaskentries}
        if any(map(cooker.is_volatile, recipes)):
            report("uncacheable")
        document = graph.build(cooker, exporter, queue, report)
        report("writing")
        GRAPH.write_text(
            json.dumps(document, separators=(",", ":")), encoding="utf-8", errors="surrogateescape"
        )
        packages = [*sorted(Path("/work/bitbake/lib").iterdir()), Path("/work/bitzel")]
        packages += [Path(directory, namespace) for directory, namespace, *_ in python_libraries()]
        PACKAGES.write_text(json.dumps([str(package) for package in packages]), encoding="utf-8")
        cooker.close()
    except Failed as error:
        if str(error):
            logging.getLogger("BitBake").error(str(error))
        return 1
    except bb.BBHandledException:
        return 1
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    # A normal exit would wait for threads and processes that BitBake leaves running.
    os._exit(status)
