# SPDX-License-Identifier: GPL-2.0-only
"""Parallel jobs in forked child processes.

multiprocessing.Pool stops its children with SIGTERM. BitBake's cooker has a handler for it that does not end the
process, so a pool of forked cookers may never end. Here a child ends by itself when no job is left.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence

import bb
from cooker import Failed

# A pipe never splits a write of this size, and so never a read of it.
INDEX_BYTES = 4


def run(items: Sequence[str], job: Callable[[str], None]) -> None:
    """Calls `job` for every item, in as many processes as there are processors.

    A job leaves its result in files. Raises Failed if a job failed; its messages are on stderr by then.
    """
    if not items:
        return
    reading, writing = os.pipe()
    children = [_fork(reading, writing, items, job) for _ in range(min(os.cpu_count() or 1, len(items)))]
    os.close(reading)
    try:
        for index in range(len(items)):
            os.write(writing, index.to_bytes(INDEX_BYTES, "little"))
    except BrokenPipeError:
        # All children have ended; their exit codes tell the reason.
        pass
    os.close(writing)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    if any(statuses):
        raise Failed("some recipes cannot be exported; see the messages above")


def _fork(reading: int, writing: int, items: Sequence[str], job: Callable[[str], None]) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child != 0:
        return child
    status = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.close(writing)
        while index := os.read(reading, INDEX_BYTES):
            job(items[int.from_bytes(index, "little")])
        status = 0
    except bb.BBHandledException:
        pass
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)
