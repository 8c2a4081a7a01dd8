# SPDX-License-Identifier: GPL-2.0-only
"""What bb.cooker uses of the PR service while PRSERV_HOST is empty: nothing is started."""

from typing import Any


class PRServiceConfigError(Exception):
    """Raised by the real service; named in an except clause of bb.cooker."""


def auto_start(_data: Any) -> None:
    return None


def auto_shutdown() -> None:
    return None
