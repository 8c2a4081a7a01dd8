# SPDX-License-Identifier: GPL-2.0-only
"""Python functions of the metadata, compiled at their first call.

A configuration of OE defines hundreds; a task calls a few.
"""

from __future__ import annotations

from typing import Any

import bb.methodpool
import bb.utils


class MetadataFunction:
    """Placeholder for a `def` function in the namespace of the metadata's Python; compiles it at the first call."""

    def __init__(self, name: str, text: str, file: str, line: int) -> None:
        self.__name__ = name
        self._source = (name, text, file, line)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        name, text, file, line = self._source
        context = bb.utils.get_context()
        if context.get(name) is self:
            # As bb.parse.ast.PythonMethodNode does; replaces this object in the namespace.
            bb.methodpool.insert_method(name, text, file, line)
        else:
            # Called through a reference that other code has kept.
            exec(compile("\n" * line + text, file, "exec"), context)
        return context[name](*arguments, **options)


class EventHandler:
    """Event handler of the metadata (bb.event.register), compiled at its first event."""

    def __init__(self, name: str, text: str, file: str, line: int) -> None:
        self._source = (name, text, file, line)
        self._function: Any = None

    def __call__(self, event: Any, data: Any) -> Any:
        if self._function is None:
            name, text, file, line = self._source
            code = compile("\n" * (line - 1) + f"def {name}(e, d):\n{text}", file, "exec")
            environment: dict[str, Any] = {}
            bb.utils.better_exec(code, environment)
            self._function = environment[name]
        return self._function(event, data)


def define(data: Any) -> None:
    """Puts all `def` functions into the namespace.

    The parser marks them with the number 1, and functions of the form `python name() {}` with the string "1".
    """
    context = bb.utils.get_context()
    for name, flags in data.dict.items():
        text = flags.get("_content")
        if flags.get("python") and isinstance(text, str) and text.startswith("def "):
            line = int(flags.get("lineno") or 0)
            context[name] = MetadataFunction(name, text, flags.get("filename") or name, line)


def register_handlers(data: Any) -> None:
    """Registers all event handlers of the configuration: a task may fire events too."""
    for name in data.getVar("__BBHANDLERS", False) or []:
        mask = (data.getVarFlag(name, "eventmask") or "").split()
        file, line = data.getVarFlag(name, "filename", False), int(data.getVarFlag(name, "lineno", False))
        handler = EventHandler(name, data.getVar(name, False), file, line)
        bb.event.register(name, handler, mask, file, line, data)
