# SPDX-License-Identifier: GPL-2.0-only
"""Client side of the replacement for hashserv."""

from typing import Any


class ClientPool:
    """Client of a hash equivalence server, which bitzel never has."""

    def __init__(self, *_arguments: Any, **_options: Any) -> None:
        raise RuntimeError("this BitBake has no hashserv; set BB_HASHSERVE to an empty string")
