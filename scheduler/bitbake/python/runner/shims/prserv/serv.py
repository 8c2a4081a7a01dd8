# SPDX-License-Identifier: GPL-2.0-only
"""Functions of the PR service that bb.cooker calls while PRSERV_HOST is empty: they start nothing."""

from typing import Any


class PRServiceConfigError(Exception):
    """Error of the real service, named in an except clause of bb.cooker."""


def auto_start(_data: Any) -> None:
    return None


def auto_shutdown() -> None:
    return None
