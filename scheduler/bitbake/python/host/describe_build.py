# SPDX-License-Identifier: GPL-2.0-only
"""Prints the layers and the download directory of a build directory, from its configuration as BitBake reads it.

Runs on the client with the user's own paths, before the sandbox of the exporter exists. Writes one JSON object to
stdout: `{"bitbake_version", "topdir", "layers": [{"path", "collections"}], "downloads"}`.

usage: describe_build.py BITBAKE_LIB SHIMS BUILD_DIRECTORY
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any


def import_bitbake(library: str, shims: str) -> Any:
    """Imports the bb library, with its messages on stderr."""
    # The shims come last: BitBake's own hashserv and prserv have precedence.
    sys.path.insert(0, library)
    sys.path.append(shims)
    sys.dont_write_bytecode = True
    import bb
    import bb.msg
    import bb.parse
    import bb.parse.ast
    import bb.utils

    bb.event._uiready = True
    bb.msg.logger_create("BitBake", sys.stderr)
    logging.getLogger("BitBake").setLevel(logging.WARNING)
    # `addpylib` would import the layers' Python code here, outside the sandbox, without need.
    bb.parse.ast.PyLibNode.eval = lambda _node, _data: None
    return bb


def main(library: str, shims: str, build_directory: str) -> None:
    bb = import_bitbake(library, shims)
    topdir = str(Path(build_directory).resolve())
    os.chdir(topdir)
    data = bb.data.init()
    for name in (os.environ.get("BB_ENV_PASSTHROUGH_ADDITIONS") or "").split():
        if name in os.environ:
            data.setVar(name, os.environ[name])
    data.setVar("TOPDIR", topdir)
    data.setVar("BBPATH", topdir)
    data.setVar("HOME", os.environ.get("HOME", ""))
    read(bb, f"{topdir}/conf/bblayers.conf", data)
    paths = (data.getVar("BBLAYERS") or "").split()
    if not paths:
        sys.exit(f"{topdir}/conf/bblayers.conf does not set BBLAYERS")

    layers = []
    seen: set[str] = set()
    for path in paths:
        layer = os.path.normpath(os.path.join(topdir, os.path.expanduser(path)))
        configuration = os.path.join(layer, "conf", "layer.conf")
        if not os.path.exists(configuration):
            sys.exit(f"layer {layer} of {topdir}/conf/bblayers.conf has no conf/layer.conf")
        data.setVar("LAYERDIR", layer)
        data.setVar("LAYERDIR_RE", layer)
        read(bb, configuration, data)
        data.expandVarref("LAYERDIR")
        data.expandVarref("LAYERDIR_RE")
        collections = [name for name in (data.getVar("BBFILE_COLLECTIONS") or "").split() if name not in seen]
        seen.update(collections)
        layers.append({"path": layer, "collections": collections})

    json.dump(
        {
            "bitbake_version": bb.__version__,
            "topdir": topdir,
            "layers": layers,
            "downloads": find_downloads(bb, data, topdir),
        },
        sys.stdout,
    )


def read(bb: Any, path: str, data: Any) -> None:
    """Parses a configuration file; ends the program with BitBake's message if it cannot be parsed."""
    try:
        bb.parse.handle(path, data, True, True)
    except (OSError, bb.parse.ParseError, bb.data_smart.ExpansionError) as error:
        sys.exit(f"ERROR: {error}")


def find_downloads(bb: Any, data: Any, topdir: str) -> str:
    """DL_DIR of the user's own configuration files; files that they include from layers count if they can be parsed."""
    logging.getLogger("BitBake").setLevel(logging.CRITICAL)
    for name in ("site.conf", "auto.conf", "local.conf"):
        path = f"{topdir}/conf/{name}"
        if os.path.exists(path):
            try:
                bb.parse.handle(path, data, True, True)
            except Exception:  # the exporter reports the error with BitBake's whole context
                continue
    try:
        downloads = data.getVar("DL_DIR")
    except Exception:
        downloads = None
    return os.path.normpath(os.path.join(topdir, os.path.expanduser(downloads or "downloads")))


if __name__ == "__main__":
    main(*sys.argv[1:])
