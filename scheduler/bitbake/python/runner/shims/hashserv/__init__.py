# SPDX-License-Identifier: GPL-2.0-only
"""Replacement for BitBake's hashserv in installations without it (the PyPI package).

bb.cooker and bb.siggen import it at top level, but use it only with a hash equivalence server. bitzel sets
BB_HASHSERVE to "" and does hash equivalence itself.
"""

from typing import Any, NoReturn


def create_server(*_arguments: Any, **_options: Any) -> NoReturn:
    raise RuntimeError("this BitBake has no hashserv; set BB_HASHSERVE to an empty string")


def create_client(*_arguments: Any, **_options: Any) -> NoReturn:
    raise RuntimeError("this BitBake has no hashserv; set BB_HASHSERVE to an empty string")


def is_valid_unihash(unihash: str) -> bool:
    return bool(unihash)
