# SPDX-License-Identifier: GPL-2.0-only
"""BitBake's own cooker in this process: parses, chooses providers, makes the run queue, computes the signatures.

The server process and the user interface around it (sockets, event queues) are left out; they would also need a
`bin` directory, which the PyPI package does not have.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import bb
import bb.cache
import bb.checksum
import bb.codeparser
import bb.cooker
import bb.cookerdata
import bb.event
import bb.fetch2
import bb.msg
import bb.providers
import bb.runqueue
import bb.server.process
import bb.utils
import task_releases

POSTFILE = "/work/build/conf/bitzel.conf"

# Event handlers that would download programs for the client; tasks use the programs of the worker.
SKIPPED_BUILD_START_HANDLERS = frozenset({"uninative_event_fetchloader"})


class Failed(Exception):
    """Raised when BitBake refuses the request; its own messages are on stderr by then."""


class _NoServer:
    """Stub of the server process, as far as BBCooker calls it."""

    def register_idle_function(self, *_arguments: Any) -> None:
        raise Failed("BitBake wanted to start a background job in the exporter")

    def wait_for_idle(self, *_arguments: Any, **_options: Any) -> None:
        return None


class _Console:
    """UI handler that logs the events that BitBake's terminal interface prints as errors."""

    class event:  # BitBake's attribute name
        @staticmethod
        def send(event: Any) -> None:
            if isinstance(event, bb.event.NoProvider):
                logging.getLogger("BitBake").error(str(event))
            elif isinstance(event, bb.event.MultipleProviders):
                logging.getLogger("BitBake").info(str(event))


def _precise_checksum_times() -> None:
    """Makes BitBake's file checksum cache see two edits within one second; its own times are whole seconds."""

    def modified(path: str) -> tuple[int, int, int]:
        status = os.stat(path)
        return (status.st_mtime_ns, status.st_size, status.st_ino)

    def modified_or_zero(self: Any, path: str) -> Any:
        try:
            return self.cached_mtime(path)
        except OSError:
            return 0

    def cached(self: Any, path: str) -> Any:
        if path not in self.cache:
            self.cache[path] = modified(path)
        return self.cache[path]

    def update(self: Any, path: str) -> Any:
        self.cache[path] = modified(path)
        return self.cache[path]

    bb.checksum.FileMtimeCache.cached_mtime = cached
    bb.checksum.FileMtimeCache.cached_mtime_noerror = modified_or_zero
    bb.checksum.FileMtimeCache.update_mtime = update


def _stable_module_dependencies() -> None:
    """Makes the dependencies of the layers' Python modules equal with a cold and a warm cache of the code parser.

    The cache does not keep `var_execs`, but the hash of the base configuration contains it: without this, the second
    run would parse all recipes again, and two machines could get different hashes. No signature depends on it.
    """
    parse = bb.codeparser.PythonParser.parse_python

    def parse_python(self: Any, *arguments: Any, fixedhash: str | None = None, **options: Any) -> None:
        parse(self, *arguments, fixedhash=fixedhash, **options)
        if fixedhash:
            self.var_execs = set()

    bb.codeparser.PythonParser.parse_python = parse_python


def _keep_recipe_information(known: dict[str, Any]) -> None:
    """Adds to `known`, by recipe variant, all entries that BitBake's recipe caches read or make.

    BitBake writes them to disk after a parse and drops them; recipes that it parses every time are not even on disk.
    """
    add = bb.cache.Cache.add_info

    def add_info(self: Any, key: str, information: Any, *arguments: Any, **options: Any) -> None:
        real_file, variant, _ = bb.cache.virtualfn2realfn(key)
        known[bb.cache.realfn2virtual(real_file, variant, self.mc)] = information[0]
        add(self, key, information, *arguments, **options)

    bb.cache.Cache.add_info = add_info


class Cooker:
    """BitBake's cooker for one build directory."""

    def __init__(self, source_date_epoch: int) -> None:
        self.epoch = time.gmtime(source_date_epoch)
        bb.server.process.serverlog = lambda _message: None
        bb.msg.logger_create("BitBake", sys.stderr)
        logging.getLogger("BitBake").setLevel(logging.WARNING)
        _precise_checksum_times()
        _stable_module_dependencies()
        self._recipe_information: dict[str, Any] = {}
        _keep_recipe_information(self._recipe_information)
        environment = dict(os.environ)
        bb.utils.clean_environment()
        self.cooker = bb.cooker.BBCooker([bb.cooker.CookerFeatures.RECIPE_SIGGEN_INFO], _NoServer())
        configuration = self.cooker.configuration
        configuration.env = environment
        # The class default, False, makes the parser processes fail; the bitbake command sets a list.
        configuration.profile = []
        configuration.postfile = [POSTFILE]
        bb.event.register_UIHhandler(_Console(), True)
        self.cooker.init_configdata()

    @property
    def data_builder(self) -> Any:
        return self.cooker.databuilder

    @property
    def caches(self) -> Any:
        return self.cooker.recipecaches

    def parse(self) -> None:
        """Parses all recipes, or reads them from BitBake's own cache."""
        while self.cooker.updateCache():
            pass
        # A thread writes BitBake's cache after a cold parse. A child that is forked while the thread holds a lock would
        # wait for that lock forever.
        writing = self.cooker.parser.syncthread
        if writing is not None:
            writing.join()
        task_releases.read_upstream_revisions(self.cooker.data)
        for data in self.data_builder.mcdata.values():
            data.setVar("DATE", self.date)
            data.setVar("TIME", self.time)
            data.setVar("BUILDNAME", self.build_name)
            data.setVar("BUILDSTART", time.strftime("%m/%d/%Y %H:%M:%S", self.epoch))

    @property
    def date(self) -> str:
        return time.strftime("%Y%m%d", self.epoch)

    @property
    def time(self) -> str:
        return time.strftime("%H%M%S", self.epoch)

    @property
    def build_name(self) -> str:
        return self.date + self.time

    def files_of_build_start(self, multiconfig: str) -> dict[str, str]:
        """Files that the metadata writes at the start of a build and tasks read later, as {path: text}.

        (OE's create-spdx writes the document of the build itself.) Statistics and caches are left out by their
        directories.
        """
        data = bb.data.createCopy(self.data_builder.mcdata[multiconfig])
        temporary = Path(data.getVar("TMPDIR"))
        noise = tuple(
            os.path.normpath(data.getVar(variable)) + "/"
            for variable in (
                "HOSTTOOLS_DIR",
                "CACHE",
                "BUILDSTATS_BASE",
                "LOG_DIR",
                "STAMPS_DIR",
                "STAGING_DIR",
            )
            if data.getVar(variable)
        )
        before = set(temporary.rglob("*"))
        bb.event.set_eventfilter(lambda name, *_: name not in SKIPPED_BUILD_START_HANDLERS)
        bb.event.fire_class_handlers(bb.event.BuildStarted(self.build_name, []), data)
        bb.event.set_eventfilter(None)
        return {
            str(path): path.read_text(encoding="utf-8")
            for path in sorted(set(temporary.rglob("*")) - before)
            if path.is_file() and not path.is_symlink() and not str(path).startswith(noise)
        }

    def run_queue(self, request: dict[str, Any]) -> Any:
        """The prepared run queue data of the request."""
        default_task = request["task"] or self.cooker.data.getVar("BB_DEFAULT_TASK") or "build"
        configuration = self.cooker.configuration
        configuration.runall = request["run_all"]
        configuration.runonly = request["run_only"]
        configuration.force = request["force"]
        configuration.invalidate_stamp = request["invalidate"]
        try:
            task_data, wanted = self.cooker.buildTaskData(request["targets"], default_task, True)
            queue = bb.runqueue.RunQueue(self.cooker, self.cooker.data, self.caches, task_data, wanted)
            queue.rqdata.prepare()
        except (bb.providers.NoProvider, bb.runqueue.TaskFailure) as error:
            raise Failed(str(error)) from error
        return queue.rqdata

    def layer_name(self, real_file: str, multiconfig: str) -> str:
        return self.cooker.collections[multiconfig].calc_bbfile_priority(real_file)[2] or ""

    def recipe_information(self, key: str) -> Any:
        """Entry of a recipe variant in BitBake's cache (bb.cache.CoreRecipeInfo)."""
        return self._recipe_information[key]

    def is_volatile(self, key: str) -> bool:
        """True if a recipe must be parsed every time because it builds the newest upstream revision (AUTOREV).

        Decides as bb.cache.Cache.add_info does.
        """
        information = self.recipe_information(key)
        return bool(information.nocache) or "SRCREVINACTION" in information.pv

    def appends(self, key: str, multiconfig: str) -> list[str]:
        return list(self.cooker.collections[multiconfig].get_file_appends(key))

    def parse_recipe(self, key: str, appends: list[str], layer_name: str) -> Any:
        return self.data_builder.parseRecipe(key, appends, layer_name)

    def close(self) -> None:
        """Writes BitBake's caches to disk."""
        parser = self.cooker.parser
        if parser is not None:
            parser.shutdown(clean=True)
            parser.final_cleanup()
