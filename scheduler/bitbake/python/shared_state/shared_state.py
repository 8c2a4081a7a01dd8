# SPDX-License-Identifier: GPL-2.0-only
"""Search and fetch of archives in BitBake's shared state caches, by the metadata's own functions.

Runs on the client in the sandbox of the exporter, with the user's SSTATE_DIR and the directories of SSTATE_MIRRORS at
their own paths. Reads requests from stdin and answers each on stdout, one JSON document a line:

{"search": [QUERY, ...]} -> {"found": [true, ...], "summary": "Wanted 2 Local 0 Mirrors 2 Missed 0 Current 0 ..."}
{"fetch": QUERY} -> {"files": [["build/sstate-cache/...", "/path/of/the/archive"], ...], "reason": ""}

QUERY is {"recipe", "multiconfig", "task", "unihash", "hash_filename", "snapshot"}. The signature of an archive is
verified here, because the trusted keys are the user's: tasks get archives by digest.

usage: shared_state.py SETTINGS

SETTINGS is a JSON document: {"bases": {"": "SHA-256 of the base snapshot"}, "directory": "/home/me/sstate-cache",
"mirrors": "file://.* http://...", "use_native": true}.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

ROOT = Path("/work")
SNAPSHOTS = ROOT / "out/snapshots"
# Where archives of mirrors are placed, in the layout of SSTATE_DIR.
FETCHED = ROOT / "out/shared-state"
# Copies of the user's public keys (gpg --homedir).
KEYS = Path("/tmp/.gnupg")
PROGRAMS = "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# BB_HASHFILENAME of a recipe whose archives belong to one distribution of the build host begins with it.
NATIVE_MARK = "True "
SUMMARY = "Sstate summary: "

Document = dict[str, Any]


class Summary(logging.Handler):
    """Log handler that keeps the counts of the last search."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message.startswith(SUMMARY):
            self.text = message.removeprefix(SUMMARY)


class SharedState:
    """Shared state caches of one configuration."""

    def __init__(self, settings: Document) -> None:
        import bb.event
        import bb.msg
        import bb.utils

        self.settings = settings
        self.summary = Summary()
        bb.event._uiready = True
        bb.msg.logger_create("BitBake", sys.stderr)
        logger = logging.getLogger("BitBake")
        logger.handlers[0].setLevel(logging.WARNING)
        logger.setLevel(logging.INFO)
        logger.addHandler(self.summary)
        self._bases: dict[str, Any] = {}

    def _restore(self, multiconfig: str, recipe: str | None) -> Any:
        """The data store of a configuration, or of a recipe variant in it."""
        import bb.parse
        import bb.siggen
        import data_store
        import metadata_functions
        import one_task

        base = data_store.decode((SNAPSHOTS / self.settings["bases"][multiconfig]).read_bytes())
        if recipe is None:
            contents = data_store.unchanged(base)
        else:
            contents = data_store.decode((SNAPSHOTS / recipe).read_bytes())
        data = one_task.restore(base, contents)
        one_task.import_libraries(data, base)
        metadata_functions.define(data)
        bb.parse.siggen = bb.siggen.init(data)
        # The programs of this sandbox; the metadata's PATH has links that only a task makes.
        data.setVar("PATH", PROGRAMS)
        data.setVar("SSTATE_MIRRORS", self.settings["mirrors"])
        if KEYS.is_dir():
            data.setVar("GPG_PATH", str(KEYS))
        return data

    def _base(self, multiconfig: str) -> Any:
        if multiconfig not in self._bases:
            data = self._restore(multiconfig, None)
            data.setVar("SSTATE_DIR", self.settings["directory"])
            data.setVar("NATIVELSBSTRING", native_string(data))
            self._bases[multiconfig] = data
        return self._bases[multiconfig]

    def search(self, queries: list[Document]) -> Document:
        """Answers for which of the queries an archive exists; one call of BB_HASHCHECK_FUNCTION per configuration."""
        import bb.utils

        found: set[str] = set()
        self.summary.text = ""
        keys = [f"{query['recipe']}:{query['task']}" for query in queries]
        for multiconfig in sorted({query["multiconfig"] for query in queries}):
            data = self._base(multiconfig)
            function = data.getVar("BB_HASHCHECK_FUNCTION")
            if not function:
                continue
            wanted: Document = {"hash": {}, "unihash": {}, "hashfn": {}}
            for key, query in zip(keys, queries):
                is_native = query["hash_filename"].startswith(NATIVE_MARK)
                if query["multiconfig"] == multiconfig and (self.settings["use_native"] or not is_native):
                    wanted["hash"][key] = wanted["unihash"][key] = query["unihash"]
                    wanted["hashfn"][key] = query["hash_filename"]
            # The call of bb.runqueue.
            call = f"{function}(sq_data, d, siginfo=siginfo, currentcount=currentcount, summary=summary)"
            variables = {"sq_data": wanted, "d": data, "siginfo": False, "currentcount": 0, "summary": True}
            found |= bb.utils.better_eval(call, variables)
        return {"found": [key in found for key in keys], "summary": self.summary.text}

    def fetch(self, query: Document) -> Document:
        """Fetches one archive, as sstate_installpkg of OE's sstate.bbclass does before it unpacks."""
        import bb.utils

        data = self._restore(query["multiconfig"], query["snapshot"])
        data.setVar("BB_UNIHASH", query["unihash"])
        data.setVar("BB_CURRENTTASK", query["task"].removeprefix("do_") + "_setscene")
        context = bb.utils.get_context()
        data.setVar("SSTATE_CURRTASK", context["sstate_state_fromvars"](data)["task"])
        # The path at which the setscene task looks for it, with the values that tasks have.
        placed = os.path.relpath(data.getVar("SSTATE_PKG"), ROOT)
        data.setVar("NATIVELSBSTRING", native_string(data))
        is_verified = bb.utils.to_boolean(data.getVar("SSTATE_VERIFY_SIG"), False)
        data.setVar("SSTATE_DIR", self.settings["directory"])
        path = data.getVar("SSTATE_PKG")
        if not os.path.exists(path) or (is_verified and not os.path.exists(f"{path}.sig")):
            data.setVar("SSTATE_DIR", str(FETCHED))
            path = data.getVar("SSTATE_PKG")
            context["pstaging_fetch"](data.getVar("SSTATE_PKGNAME"), data)
        if not os.path.isfile(path):
            return {"files": [], "reason": f"{path} does not exist"}
        if is_verified and (reason := unverified(data, path)):
            return {"files": [], "reason": reason}
        return {"files": [[placed, path]], "reason": ""}


def native_string(data: Any) -> str:
    """NATIVELSBSTRING of this root, as OE's base.bbclass sets it without uninative.

    The configuration fixes another value, so that signatures do not depend on the distribution. Archives that were
    built with uninative ("universal") need its loader, which no sandbox has.
    """
    import bb.utils

    # A function of base.bbclass in releases before 2026.
    identify = bb.utils.get_context().get("lsb_distro_identifier")
    if identify is None:
        from oe.lsb import distro_identifier as identify
    return str(identify(data))


def unverified(data: Any, path: str) -> str:
    """The reason why an archive is not trusted; empty if its signature is valid."""
    from oe.gpg_sign import get_signer

    if not os.path.isfile(f"{path}.sig"):
        return f"no signature file for {os.path.basename(path)}"
    if not get_signer(data, "local").verify(f"{path}.sig", data.getVar("SSTATE_VALID_SIGS")):
        return f"cannot verify the signature of {os.path.basename(path)}"
    return ""


def answer(shared_state: SharedState, request: Document) -> Document:
    """Answer to one request; an error is an answer too."""
    try:
        if "search" in request:
            return shared_state.search(request["search"])
        return shared_state.fetch(request["fetch"])
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def main(settings: str) -> None:
    warnings.simplefilter("ignore")
    # Metadata prints; the answers have a descriptor of their own.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    os.chdir(ROOT / "build")
    shared_state = SharedState(json.loads(settings))
    for line in sys.stdin:
        print(json.dumps(answer(shared_state, json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
