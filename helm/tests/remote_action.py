# SPDX-License-Identifier: Apache-2.0
"""An Action as gRPC messages of the Remote Execution API, for a client that has nothing but curl."""

from __future__ import annotations

import hashlib
import struct


def field(number: int, value: bytes | str | int) -> bytes:
    """A field of a protocol buffer."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def digest(blob: bytes) -> bytes:
    return field(1, hashlib.sha256(blob).hexdigest()) + field(2, len(blob))


def frame(message: bytes) -> bytes:
    """A message as gRPC sends it: not compressed, with its length."""
    return b"\0" + struct.pack(">I", len(message)) + message


def requests(arguments: list[str]) -> tuple[bytes, bytes]:
    """Bodies of BatchUpdateBlobs and Execute for a command with an empty input root."""
    command = b"".join(field(1, argument) for argument in arguments)
    directory = b""
    action = field(1, digest(command)) + field(2, digest(directory)) + field(7, 1)
    upload = b"".join(
        field(2, field(1, digest(blob)) + field(2, blob)) for blob in (command, directory, action)
    )
    return frame(upload), frame(field(3, 1) + field(6, digest(action)))
