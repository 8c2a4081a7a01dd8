# SPDX-License-Identifier: Apache-2.0
"""Service of a cluster: one address for several pods, as kube-proxy makes it."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading

BUFFER_SIZE = 1 << 16


class ServiceProxy:
    """Passes connections on to the pods in turn, and leaves out those that take none."""

    def __init__(self, address: str, port: int, pods: list[str]):
        self.port = port
        self.pods = pods
        self.turn = itertools.count()
        self.listener = socket.create_server((address, port))
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        # The listener is closed at the end.
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client: socket.socket) -> None:
        first = next(self.turn)
        for index in range(len(self.pods)):
            pod = self.pods[(first + index) % len(self.pods)]
            try:
                server = socket.create_connection((pod, self.port), timeout=5)
            except OSError:
                continue
            server.settimeout(None)
            other = threading.Thread(target=pump, args=(client, server), daemon=True)
            other.start()
            pump(server, client)
            other.join()
            server.close()
            break
        client.close()

    def close(self) -> None:
        self.listener.close()


def pump(source: socket.socket, target: socket.socket) -> None:
    """Copies until one side ends, and ends the other side's half."""
    with contextlib.suppress(OSError):
        while data := source.recv(BUFFER_SIZE):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
