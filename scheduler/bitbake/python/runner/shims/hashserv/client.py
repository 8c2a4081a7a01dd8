# SPDX-License-Identifier: GPL-2.0-only
"""See the package's own documentation."""

from typing import Any


class ClientPool:
    """Never used without a hash equivalence server."""

    def __init__(self, *_arguments: Any, **_options: Any) -> None:
        raise RuntimeError("this BitBake has no hashserv; set BB_HASHSERVE to an empty string")
