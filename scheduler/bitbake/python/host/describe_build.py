# SPDX-License-Identifier: GPL-2.0-only
"""Prints the layers and the directories of a build directory, from its configuration as BitBake reads it.

Runs on the client with the user's own paths, before the sandbox of the exporter exists. It is called twice, because
configuration is code, and what a layer's file says must not decide which directories of the user are read or written:

* `settings` reads the build directory's own files alone and writes one JSON object to stdout: `{"bitbake_version",
  "topdir", "layers": [path], "downloads", "written", "external_sources": [{"path", "sandbox_path"}], "shared_state":
  {"directory", "mirrors", "keys"}}`.
* `collections` reads `conf/layer.conf` of each layer too and writes the list of the names that each of them adds to
  BBFILE_COLLECTIONS, in the order of the layers.

usage: describe_build.py settings|collections BITBAKE_LIB SHIMS BUILD_DIRECTORY
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from pathlib import Path
from typing import Any

# Where `devtool modify` notes the source trees, relative to the build directory.
WORKSPACE_APPENDS = "workspace/appends"
EXTERNAL_SOURCE = re.compile(r"""^EXTERNALSRC[\w:-]*\s*[?:.]*=\s*["'](/[^"']+)["']""", re.MULTILINE)
# Variables of directories that BitBake writes to.
WRITTEN_DIRECTORY_VARIABLES = (
    "BUILDHISTORY_DIR",
    "CACHE",
    "DL_DIR",
    "PERSISTENT_DIR",
    "SSTATE_DIR",
    "TMPDIR",
)


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


def main(mode: str, library: str, shims: str, build_directory: str) -> None:
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
    layers = find_layers(data, topdir)
    answer: Any
    if mode == "collections":
        answer = find_collections(bb, data, layers)
    else:
        read_settings(bb, data, topdir)
        answer = {
            "bitbake_version": bb.__version__,
            "topdir": topdir,
            "layers": layers,
            "downloads": find_downloads(data, topdir),
            "written": find_written_directories(data, topdir),
            "external_sources": find_external_sources(data, topdir),
            "shared_state": find_shared_state(data, topdir),
        }
    json.dump(answer, sys.stdout)


def find_layers(data: Any, topdir: str) -> list[str]:
    """Absolute paths of the layers, in the order of BBLAYERS."""
    paths = (data.getVar("BBLAYERS") or "").split()
    if not paths:
        sys.exit(f"{topdir}/conf/bblayers.conf does not set BBLAYERS")
    layers = [os.path.normpath(os.path.join(topdir, os.path.expanduser(path))) for path in paths]
    for layer in layers:
        if not os.path.exists(os.path.join(layer, "conf", "layer.conf")):
            sys.exit(f"layer {layer} of {topdir}/conf/bblayers.conf has no conf/layer.conf")
    return layers


def find_collections(bb: Any, data: Any, layers: list[str]) -> list[list[str]]:
    """Names that each layer adds to BBFILE_COLLECTIONS."""
    collections = []
    seen: set[str] = set()
    for layer in layers:
        data.setVar("LAYERDIR", layer)
        data.setVar("LAYERDIR_RE", layer)
        read(bb, os.path.join(layer, "conf", "layer.conf"), data)
        data.expandVarref("LAYERDIR")
        data.expandVarref("LAYERDIR_RE")
        names = [name for name in (data.getVar("BBFILE_COLLECTIONS") or "").split() if name not in seen]
        seen.update(names)
        collections.append(names)
    return collections


def read(bb: Any, path: str, data: Any) -> None:
    """Parses a configuration file; ends the program with BitBake's message if it cannot be parsed."""
    try:
        bb.parse.handle(path, data, True, True)
    except (OSError, bb.parse.ParseError, bb.data_smart.ExpansionError) as error:
        sys.exit(f"ERROR: {error}")


def read_settings(bb: Any, data: Any, topdir: str) -> None:
    """Parses the user's own configuration files. Files of layers that they include are not found and do not count."""
    logging.getLogger("BitBake").setLevel(logging.CRITICAL)
    include = bb.parse.ConfHandler.include
    bb.parse.ConfHandler.include = lambda parent, files, line, data, _error: include(
        parent, files, line, data, False
    )
    for name in ("site.conf", "auto.conf", "local.conf"):
        path = f"{topdir}/conf/{name}"
        if os.path.exists(path):
            try:
                bb.parse.handle(path, data, True, True)
            except Exception:  # the exporter reports the error with BitBake's whole context
                continue


def find_directory(data: Any, topdir: str, variable: str) -> str:
    """Absolute path in a variable; empty if the variable has no value or one that needs other files to expand."""
    try:
        value = data.getVar(variable) or ""
    except Exception:
        return ""
    return os.path.normpath(os.path.join(topdir, os.path.expanduser(value))) if value else ""


def find_downloads(data: Any, topdir: str) -> str:
    """DL_DIR of the user's own configuration files."""
    return find_directory(data, topdir, "DL_DIR") or f"{topdir}/downloads"


def find_written_directories(data: Any, topdir: str) -> list[str]:
    """Directories outside of the build directory that BitBake writes to."""
    found = {find_directory(data, topdir, variable) for variable in WRITTEN_DIRECTORY_VARIABLES}
    return sorted(
        path for path in found if path and "${" not in path and not f"{path}/".startswith(f"{topdir}/")
    )


def find_external_sources(data: Any, topdir: str) -> list[dict[str, str]]:
    """Source trees of OE's externalsrc.bbclass: those of the configuration, and those of devtool's workspace.

    In the sandbox each has a path without the client's directories, relative to /work.
    """
    values = [data.getVar(name) for name in sorted(data.keys()) if name.startswith("EXTERNALSRC")]
    for append in sorted(Path(topdir, WORKSPACE_APPENDS).glob("*.bbappend")):
        values += EXTERNAL_SOURCE.findall(append.read_text(encoding="utf-8", errors="replace"))
    sources: list[dict[str, str]] = []
    for path in sorted({os.path.normpath(value) for value in values if value and value.startswith("/")}):
        inside = any(f"{path}/".startswith(f"{source['path']}/") for source in sources)
        if inside or not os.path.isdir(path):
            continue
        name = os.path.basename(path)
        taken = {source["sandbox_path"] for source in sources}
        names = [name, *(f"{name}-{number}" for number in range(2, len(sources) + 3))]
        free = next(found for candidate in names if (found := f"external/{candidate}") not in taken)
        sources.append({"path": path, "sandbox_path": free})
    return sources


def find_shared_state(data: Any, topdir: str) -> dict[str, str]:
    """SSTATE_DIR, SSTATE_MIRRORS and GPG_PATH of the user's own configuration files."""
    try:
        mirrors = data.getVar("SSTATE_MIRRORS") or ""
    except Exception:
        mirrors = ""
    return {
        "directory": find_directory(data, topdir, "SSTATE_DIR") or f"{topdir}/sstate-cache",
        "mirrors": mirrors.replace("\\n", " ").strip(),
        "keys": find_directory(data, topdir, "GPG_PATH") or os.path.expanduser("~/.gnupg"),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
