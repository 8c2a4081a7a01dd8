# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL outside of the cluster, with TLS and a password, as the chart needs it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from certificates import Authority

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
# PostgreSQL refuses to run as root.
NOBODY = 65534
PORT = 5432
# A name, because the certificate is checked.
HOST = "db.test"
PASSWORD = "a password / with: signs"


class Postgresql:
    """A running server with the user and database `bitzel`, which takes connections with TLS and the password alone."""

    def __init__(self, directory: Path, address: str, authority: Authority):
        self.directory = directory / "postgresql"
        self.directory.mkdir()
        data = self.directory / "data"
        secret = authority.secret("/CN=db", HOST)
        self.secrets = {
            "postgresql-password": {"password": PASSWORD.encode()},
            "postgresql-ca": {"ca.crt": secret["ca.crt"]},
        }
        for name, content in {**secret, "password": PASSWORD.encode()}.items():
            (self.directory / name).write_bytes(content)
            (self.directory / name).chmod(0o600)
        for path in [self.directory, *self.directory.iterdir()]:
            os.chown(path, NOBODY, NOBODY)
        self.run("initdb", "--no-sync", "--username=bitzel", "--auth=scram-sha-256",
                 f"--pwfile={self.directory / 'password'}", f"--pgdata={data}")  # fmt: skip
        (data / "pg_hba.conf").write_text("local all all trust\nhostssl all all all scram-sha-256\n")
        settings = {
            "listen_addresses": address,
            "unix_socket_directories": str(self.directory),
            "fsync": "off",
            "ssl": "on",
            "ssl_cert_file": str(self.directory / "tls.crt"),
            "ssl_key_file": str(self.directory / "tls.key"),
        }
        with (data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
        self.run("pg_ctl", f"--pgdata={data}", "--wait", f"--log={self.directory / 'log'}", "start")
        self.run("createdb", f"--host={self.directory}", f"--port={PORT}", "--username=bitzel", "bitzel")

    def stop(self) -> None:
        self.run("pg_ctl", f"--pgdata={self.directory / 'data'}", "--wait", "--mode=fast", "stop")
        shutil.rmtree(self.directory)

    def run(self, program: str, *arguments: str) -> None:
        ended = subprocess.run(
            [PROGRAMS[-1] / program, *arguments],
            user=NOBODY,
            group=NOBODY,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE if program != "pg_ctl" else subprocess.DEVNULL,
            text=True,
            check=False,
        )
        if ended.returncode != 0:
            raise AssertionError(f"{program}: {ended.stderr}")
