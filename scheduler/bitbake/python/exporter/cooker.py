# SPDX-License-Identifier: GPL-2.0-only
"""BitBake's own cooker, in this process: parse, choose providers, make the run queue, compute the signatures.

What `bin/bitbake-server` and a user interface do around it (sockets, event queues) is left out; it would also need
a `bin` directory that the PyPI package does not have.
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
import cooker_releases

POSTFILE = "/work/build/conf/bitzel.conf"


# Event handlers that would download programs for the client; tasks run on the workers' own programs.
NOT_AT_BUILD_START = frozenset({"uninative_event_fetchloader"})


class Failed(Exception):
    """BitBake refused; its own messages are on stderr already."""


class _NoServer:
    """What BBCooker wants of the process that serves it."""

    def register_idle_function(self, *_arguments: Any) -> None:
        raise Failed("BitBake wanted to start a background job in the exporter")

    def wait_for_idle(self, *_arguments: Any, **_options: Any) -> None:
        return None


class _Console:
    """Prints the events that BitBake's terminal interface would print as errors."""

    class event:  # the attribute name is BitBake's
        @staticmethod
        def send(event: Any) -> None:
            if isinstance(event, bb.event.NoProvider):
                logging.getLogger("BitBake").error(str(event))
            elif isinstance(event, (bb.event.MultipleProviders,)):
                logging.getLogger("BitBake").info(str(event))


def _precise_checksum_times() -> None:
    """BitBake's file checksum cache trusts whole seconds; two edits within one second must both be seen."""

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
    """Makes BitBake see the layers' Python modules alike, whether its code parser's cache is cold or warm.

    The cache does not keep `var_execs`, yet the hash of the base configuration contains it: without this, the second
    run would parse all recipes again, and two machines could disagree. No signature depends on it.
    """
    parse = bb.codeparser.PythonParser.parse_python

    def parse_python(self: Any, *arguments: Any, fixedhash: str | None = None, **options: Any) -> None:
        parse(self, *arguments, fixedhash=fixedhash, **options)
        if fixedhash:
            self.var_execs = set()

    bb.codeparser.PythonParser.parse_python = parse_python


def _keep_recipe_information(known: dict[str, Any]) -> None:
    """Keeps in `known`, by recipe variant, what BitBake's recipe caches read or made.

    BitBake writes it to disk after a parse and forgets it; recipes that it parses every time are not even in there.
    """
    add = bb.cache.Cache.add_info

    def add_info(self: Any, key: str, information: Any, *arguments: Any, **options: Any) -> None:
        real_file, variant, _ = bb.cache.virtualfn2realfn(key)
        known[bb.cache.realfn2virtual(real_file, variant, self.mc)] = information[0]
        add(self, key, information, *arguments, **options)

    bb.cache.Cache.add_info = add_info


class Cooker:
    """A parsed build directory."""

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
        """Parses all recipes, or takes them from BitBake's own cache."""
        while self.cooker.updateCache():
            pass
        # The thread that writes BitBake's cache after a cold parse: a fork while it holds a lock leaves the child
        # waiting for that lock for ever.
        writing = self.cooker.parser.syncthread
        if writing is not None:
            writing.join()
        cooker_releases.read_upstream_revisions(self.cooker.data)
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
        """What the metadata writes when a build starts and its tasks then read, as {path: text}.

        (OE's create-spdx writes the document that stands for the build itself.) Statistics and caches are left out
        by the places that they are in.
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
        bb.event.set_eventfilter(lambda name, *_: name not in NOT_AT_BUILD_START)
        bb.event.fire_class_handlers(bb.event.BuildStarted(self.build_name, []), data)
        bb.event.set_eventfilter(None)
        return {
            str(path): path.read_text(encoding="utf-8")
            for path in sorted(set(temporary.rglob("*")) - before)
            if path.is_file() and not path.is_symlink() and not str(path).startswith(noise)
        }

    def run_queue(self, request: dict[str, Any]) -> Any:
        """The prepared run queue data for what the command line asks for."""
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
        """What BitBake's cache has of a recipe variant (bb.cache.CoreRecipeInfo)."""
        return self._recipe_information[key]

    def is_volatile(self, key: str) -> bool:
        """Whether a recipe must be parsed every time: it builds the newest revision upstream (AUTOREV).

        As bb.cache.Cache.add_info decides it.
        """
        information = self.recipe_information(key)
        return bool(information.nocache) or "SRCREVINACTION" in information.pv

    def appends(self, key: str, multiconfig: str) -> list[str]:
        return list(self.cooker.collections[multiconfig].get_file_appends(key))

    def parse_recipe(self, key: str, appends: list[str], layer_name: str) -> Any:
        return self.data_builder.parseRecipe(key, appends, layer_name)

    def close(self) -> None:
        """Writes BitBake's caches out."""
        parser = self.cooker.parser
        if parser is not None:
            parser.shutdown(clean=True)
            parser.final_cleanup()
