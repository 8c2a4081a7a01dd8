# SPDX-License-Identifier: GPL-2.0-only
"""Stub of a BitBake data store."""

from __future__ import annotations


class Variables(dict[str, str]):
    """Variables by name, without expansion and flags."""

    def getVar(self, name: str, _expand: bool = True) -> str | None:  # noqa: N802  (BitBake's name)
        """The value of a variable, as DataSmart.getVar returns it."""
        return self.get(name)
