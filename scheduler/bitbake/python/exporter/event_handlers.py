# SPDX-License-Identifier: GPL-2.0-only
"""Event handlers of the metadata: those that wait for the end of a build, and those for events which no build has.

Events of the parse are fired by the exporter, BuildStarted by it and by build_events.py, which also fires
BuildCompleted, those of a task (bb.build.*) by the runner in the task's sandbox. The others are BitBake's server's own:
it has a run queue, a TMPDIR and a heartbeat.
"""

from __future__ import annotations

from typing import Any

from metadata_values import Document, words

UNFIRED_EVENTS = frozenset(
    f"bb.event.{name}"
    for name in (
        "BuildInit",
        "CookerExit",
        "DepTreeGenerated",
        "DiskFull",
        "DiskUsageSample",
        "HeartbeatEvent",
        "MonitorDiskEvent",
        "ReachableStamps",
        "StaleSetSceneTasks",
    )
)
UNFIRED_MODULES = ("bb.runqueue.", "bb.cooker.")
# OE's own handlers that keep a TMPDIR tidy: there is none.
HANDLERS_OF_TMPDIR = frozenset({"sstate_eventhandler_reachablestamps", "sstate_eventhandler_stalesstate"})
COMPLETED_EVENT = "bb.event.BuildCompleted"
ALL_EVENTS = "*"


def unfired_handlers(data: Any) -> list[Document]:
    """EventHandler messages of the handlers with their events that are not fired, by name."""
    handlers = []
    for name in sorted(set(data.getVar("__BBHANDLERS", False) or []) - HANDLERS_OF_TMPDIR):
        mask = words(data.getVarFlag(name, "eventmask")) or [ALL_EVENTS]
        events = [event for event in mask if is_unfired(event)]
        if events:
            handlers.append({"name": name, "events": events})
    return handlers


def waits_for_end(data: Any) -> bool:
    """True if a handler has to be called when the build ends."""
    handlers = set(data.getVar("__BBHANDLERS", False) or []) - HANDLERS_OF_TMPDIR
    return any(
        mask in (COMPLETED_EVENT, ALL_EVENTS)
        for name in handlers
        for mask in words(data.getVarFlag(name, "eventmask")) or [ALL_EVENTS]
    )


def is_unfired(event: str) -> bool:
    """True for the name of an event that is not fired, and for the mask of all events."""
    return event == ALL_EVENTS or event in UNFIRED_EVENTS or event.startswith(UNFIRED_MODULES)
