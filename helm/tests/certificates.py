# SPDX-License-Identifier: Apache-2.0
"""Certificates for tests, as cert-manager would put them into Secrets."""

from __future__ import annotations

import subprocess
from pathlib import Path


class Authority:
    """A certificate authority in a directory."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.openssl("req", "-x509", "-newkey", "ed25519", "-nodes", "-keyout", "ca.key", "-out", "ca.crt",
                     "-days", "2", "-subj", "/CN=test authority")  # fmt: skip

    def secret(self, subject: str, *host_names: str) -> dict[str, bytes]:
        """Data of a Secret with a certificate for a subject and host names, its key and the authority."""
        extensions = "basicConstraints=CA:FALSE\n"
        if host_names:
            extensions += f"subjectAltName={','.join(f'DNS:{name}' for name in host_names)}\n"
        (self.directory / "extensions").write_text(extensions)
        self.openssl(
            "req", "-newkey", "ed25519", "-nodes", "-keyout", "tls.key", "-out", "tls.csr", "-subj", subject
        )
        self.openssl("x509", "-req", "-in", "tls.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
                     "-days", "2", "-extfile", "extensions", "-out", "tls.crt")  # fmt: skip
        return {name: (self.directory / name).read_bytes() for name in ("tls.crt", "tls.key", "ca.crt")}

    def openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.directory, check=True, capture_output=True)
