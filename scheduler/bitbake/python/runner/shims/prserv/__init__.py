# SPDX-License-Identifier: GPL-2.0-only
"""Stands in for BitBake's prserv where the installed BitBake has none (the PyPI package)."""
