# SPDX-License-Identifier: GPL-2.0-only
"""Environment of fetchers in a task that runs on the machine of the user (`bitzel build --fetch client`).

BitBake's fetchers pass some variables of the user's environment on to the programs that they start
(bb.fetch2.FETCH_EXPORT_VARS). The client sends those that it has in one variable of the runner, because the task's
environment is the metadata's.
"""

from __future__ import annotations

import json
import os
from typing import Any

import bb.fetch2

# Variable of the runner's environment with the user's variables, as a JSON object. Without it there are none.
ENVIRONMENT_VARIABLE = "BITZEL_FETCH_ENVIRONMENT"


def apply(data: Any, encoded: str) -> None:
    """Gives the fetchers of this release the variables that they let through, except for the metadata's PATH."""
    variables: dict[str, str] = json.loads(encoded)
    for name in bb.fetch2.FETCH_EXPORT_VARS:
        if name in variables and name != "PATH":
            data.setVar(name, variables[name])
            os.environ[name] = variables[name]
