# SPDX-License-Identifier: GPL-2.0-only
"""Entry point of the runner: runs one task inside the sandbox with BitBake's own bb.build.

No server, no cooker, no parse: the recipe's data store is restored from a snapshot. Reads task.json,
dependencies.json, base.json and recipe.json from the directory of this file. Exit codes: 0 success, 1 the task failed,
97 the snapshot gives another signature than the graph.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path

RUNNER = Path("/work/bitzel")
LIBRARY = Path("/work/bitbake/lib")
TASK_FORMAT = 1


def main() -> int:
    # The shims come before BitBake's own hashserv and prserv: a task has no server to talk to, and the real modules
    # import half of Python's library.
    sys.path[:0] = [str(RUNNER), str(RUNNER / "shims"), str(LIBRARY)]
    warnings.simplefilter("ignore")
    task = json.loads((RUNNER / "task.json").read_bytes())
    if task["format"] != TASK_FORMAT:
        sys.exit(f"task.json has format {task['format']}, this runner reads {TASK_FORMAT}")
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
    # The task is over, also if the metadata's code has left threads running.
    os._exit(code)
