# SPDX-License-Identifier: GPL-2.0-only
"""Runs exactly one task, inside the sandbox, with BitBake's own bb.build.

No server, no cooker, no parse: the recipe's data store is restored from a snapshot. Reads task.json,
dependencies.json, base.json and recipe.json beside this file. Exit codes: 0 success, 1 the task failed, 97 the
snapshot gives another signature than the graph.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path

HERE = Path("/work/bitzel")
LIBRARY = Path("/work/bitbake/lib")
FORMAT = 1


def main() -> int:
    # The stand-ins come before BitBake's own hashserv and prserv: a task has no server to talk to, and the real ones
    # import half of Python's library.
    sys.path[:0] = [str(HERE), str(HERE / "shims"), str(LIBRARY)]
    warnings.simplefilter("ignore")
    task = json.loads((HERE / "task.json").read_bytes())
    if task["format"] != FORMAT:
        sys.exit(f"task.json has format {task['format']}, this runner reads {FORMAT}")
    import fakeroot

    if task["fakeroot"] and not fakeroot.is_inside():
        return fakeroot.run_inside(task)
    import lazy_imports

    lazy_imports.install()
    import one_task

    return one_task.run(task)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Whatever threads the metadata's code started, the task is over.
    os._exit(code)
