# SPDX-License-Identifier: GPL-2.0-only
"""Replacement for BitBake's prserv in installations without it (the PyPI package)."""
