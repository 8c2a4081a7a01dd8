# SPDX-License-Identifier: Apache-2.0
"""A real API server of Kubernetes on etcd, without controllers and nodes: it admits, stores and authorises."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

from certificates import Authority

ADMIN_TOKEN = "token-of-the-administrator"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Refused(AssertionError):
    """Answer of the API server that is no success."""

    def __init__(self, status: int, message: str):
        super().__init__(f"{status}: {message}")
        self.status = status


class ApiServer:
    """The API server, until it is stopped."""

    def __init__(self, program: Path, directory: Path):
        self.directory = directory
        authority = Authority(directory)
        for name, content in authority.secret("/CN=localhost", "localhost").items():
            (directory / f"api-{name}").write_bytes(content)
        self.authority = directory / "api-ca.crt"
        authority.openssl("genrsa", "-out", "accounts.key", "2048")
        (directory / "tokens").write_text(f"{ADMIN_TOKEN},admin,admin,system:masters\n")
        self.log = (directory / "log").open("wb")
        etcd, peers, self.port = free_port(), free_port(), free_port()
        self.processes = [
            self.start(
                shutil.which("etcd"),
                f"--data-dir={directory / 'etcd'}",
                f"--listen-client-urls=http://127.0.0.1:{etcd}",
                f"--advertise-client-urls=http://127.0.0.1:{etcd}",
                f"--listen-peer-urls=http://127.0.0.1:{peers}",
                "--unsafe-no-fsync",
            ),
            self.start(
                program,
                f"--etcd-servers=http://127.0.0.1:{etcd}",
                f"--secure-port={self.port}",
                "--bind-address=127.0.0.1",
                f"--tls-cert-file={directory / 'api-tls.crt'}",
                f"--tls-private-key-file={directory / 'api-tls.key'}",
                f"--service-account-key-file={directory / 'accounts.key'}",
                f"--service-account-signing-key-file={directory / 'accounts.key'}",
                "--service-account-issuer=https://kubernetes.default.svc",
                "--service-cluster-ip-range=10.96.0.0/16",
                f"--token-auth-file={directory / 'tokens'}",
                "--authorization-mode=RBAC",
                "--enable-priority-and-fairness=false",
            ),
        ]
        self.context = ssl.create_default_context(cafile=str(self.authority))
        # Ours have no key identifiers, which newer versions of Python ask for.
        self.context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)

    def start(self, program: str | Path | None, *arguments: str) -> subprocess.Popen:
        return subprocess.Popen(
            [str(program), *arguments],
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )

    @property
    def address(self) -> str:
        return f"https://localhost:{self.port}"

    def is_ready(self) -> bool:
        for process in self.processes:
            if process.poll() is not None:
                raise AssertionError(f"{process.args[0]} has ended: {(self.directory / 'log').read_text()}")
        try:
            return self.call("GET", "/readyz") == "ok"
        except (OSError, Refused):
            return False

    def call(self, method: str, path: str, body: dict | None = None, token: str = ADMIN_TOKEN) -> object:
        """Calls the API server, and returns what it answers: JSON, or a text."""
        request = urllib.request.Request(self.address + path, method=method)
        request.add_header("Authorization", f"Bearer {token}")
        if body is not None:
            request.add_header("Content-Type", "application/json")
            request.data = json.dumps(body).encode()
        try:
            with urllib.request.urlopen(request, timeout=60, context=self.context) as answer:
                text = answer.read().decode()
        except urllib.error.HTTPError as error:
            raise Refused(error.code, error.read().decode()) from error
        return json.loads(text) if text.startswith("{") else text

    def create(self, document: dict, namespace: str, dry_run: bool = False) -> object:
        """Creates an object of a namespace, or only says if it would."""
        group = document["apiVersion"]
        kind = document["kind"].lower()
        plural = f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"
        root = f"/api/{group}" if "/" not in group else f"/apis/{group}"
        query = "?fieldValidation=Strict" + ("&dryRun=All" if dry_run else "")
        return self.call("POST", f"{root}/namespaces/{namespace}/{plural}{query}", document)

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
            process.wait()
        self.log.close()
