# SPDX-License-Identifier: Apache-2.0
"""A farm of several servers as processes, while its workers are rolled out and a server is lost.

Two servers with PostgreSQL, two CAS shards, the pod of the results and three workers run what the chart renders. They
build the demo image. Another farm, of one server and one worker, builds it in peace: all outputs have to be the same.
"""

from __future__ import annotations

import hashlib
import subprocess
import unittest
from pathlib import Path

from certificates import Authority
from chart import NAMESPACE, pool
from farm import NETWORK, Farm, wait_until
from oci_container import Container
from pods_case import IDENTITY, PodsCase, skip
from postgresql import HOST, PORT, PROGRAMS, Postgresql
from service_proxy import ServiceProxy

IMAGE = "demo-image"
SERVERS = ["t-bitzel-0", "t-bitzel-1"]
SERVICE = f"t-bitzel.{NAMESPACE}.svc"
# A build takes a minute or two on an idle machine.
BUILD_TIMEOUT = 1500


def digests(directory: Path) -> dict[str, str]:
    """Kind and content of each file below a directory."""
    found = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_file():
            mode = oct(path.stat().st_mode)
            found[name] = f"{mode} {hashlib.sha256(path.read_bytes()).hexdigest()}"
        else:
            found[name] = "directory"
    return found


class SeveralServers(PodsCase):
    def test_the_image_is_right_after_a_roll_out_and_a_lost_server(self):
        if not PROGRAMS:
            skip("PostgreSQL is missing; tests/setup.sh installs it")
        expected = self.build_in_peace()
        farm, specs = self.start_farm()
        workers = {
            name: self.start_worker(farm, specs, name) for name in ("worker-0", "worker-1", "worker-2")
        }
        output = self.directory / "output"
        build = self.start_build(f"grpc://{NETWORK}.1:8980", f"--output={output}", IMAGE)

        self.roll_out(farm, specs, workers, build)
        self.lose_the_leader(farm, specs, build)

        text, _ = build.communicate(timeout=BUILD_TIMEOUT)
        self.assertEqual(build.returncode, 0, text)
        self.assertIn(" 0 failed", text)
        self.assertEqual(digests(output), expected)
        for name in ("t-bitzel-cas-0", "t-bitzel-cas-1"):
            self.assertGreater(farm.metric(name, "bitzel_store_blobs"), 0, f"{name} has a part of the blobs")
        # The results are where both servers find them.
        again = self.start_build(f"grpc://{NETWORK}.1:8980", IMAGE)
        text, _ = again.communicate(timeout=BUILD_TIMEOUT)
        self.assertIn("tasks: 0 run", text)

    def build_in_peace(self) -> dict[str, str]:
        """Builds on another farm, and returns what the image has."""
        farm, specs = self.farm({"workers": {"rootIdentity": IDENTITY}})
        farm.start(specs["StatefulSet/t-bitzel"], "reference", host="t-bitzel")
        self.wait_until_ready(farm, "reference")
        farm.start(specs["Deployment/t-bitzel-worker-default"], "reference-worker")
        self.wait_until_ready(farm, "reference-worker")
        output = self.directory / "reference-output"
        server = f"grpc://{farm.addresses['reference']}:8980"
        build = self.start_build(server, f"--output={output}", IMAGE)
        text, _ = build.communicate(timeout=BUILD_TIMEOUT)
        self.assertEqual(build.returncode, 0, text)
        found = digests(output)
        self.assertGreater(len(found), 10, "the image has files")
        farm.remove()
        farm.containers.clear()
        farm.mounts.clear()
        return found

    def start_farm(self) -> tuple[Farm, dict[str, dict]]:
        database = Authority(self.make_directory("database-authority"))
        postgresql = Postgresql(self.directory, f"{NETWORK}.1", database)
        self.addCleanup(postgresql.stop)
        shards = Authority(self.make_directory("shards-authority"))
        names = [f"*.t-bitzel-{part}.{NAMESPACE}.svc" for part in ("cas", "results")]
        secrets = {**postgresql.secrets, "shards-tls": shards.secret("/CN=servers", *names)}
        values = {
            "server": {"replicas": 2},
            "postgresql": {
                "url": f"postgresql://bitzel@{HOST}:{PORT}/bitzel",
                "passwordSecretName": "postgresql-password",
                "caSecretName": "postgresql-ca",
            },
            "store": {"kind": "shards", "shards": {"count": 2, "tlsSecretName": "shards-tls"}},
            "workers": {"rootIdentity": IDENTITY},
            "pools": [pool(replicas=3, jobs=2)],
        }
        farm, specs = self.farm(values, secrets)
        # What is outside of the cluster, and the address of the Service.
        farm.addresses[HOST] = f"{NETWORK}.1"
        farm.addresses[SERVICE] = f"{NETWORK}.1"
        for part, count in (("cas", 2), ("results", 1)):
            for number in range(count):
                name = f"t-bitzel-{part}-{number}"
                farm.start(specs[f"StatefulSet/t-bitzel-{part}"], name, host=f"{name}.t-bitzel-{part}")
                self.wait_until_ready(farm, name)
        for name in SERVERS:
            self.start_server(farm, specs, name)
        service = ServiceProxy(f"{NETWORK}.1", 8980, [farm.addresses[name] for name in SERVERS])
        self.addCleanup(service.close)
        return farm, specs

    def start_server(self, farm: Farm, specs: dict[str, dict], name: str, address: str | None = None) -> None:
        farm.start(specs["StatefulSet/t-bitzel"], name, host=f"{name}.t-bitzel-servers", address=address)
        self.wait_until_ready(farm, name)

    def start_worker(self, farm: Farm, specs: dict[str, dict], name: str) -> Container:
        worker = farm.start(specs["Deployment/t-bitzel-worker-default"], name)
        self.wait_until_ready(farm, name)
        return worker

    def roll_out(
        self, farm: Farm, specs: dict[str, dict], workers: dict[str, Container], build: subprocess.Popen
    ) -> None:
        """Replaces each worker while it runs Actions, as a Deployment does with maxSurge 1."""
        for number, (name, worker) in enumerate(workers.items()):

            def runs_an_action(name: str = name) -> bool:
                return build.poll() is not None or farm.metric(name, "bitzel_worker_actions_running") > 0

            wait_until(runs_an_action, 300, f"{name} runs an Action")
            self.assertIsNone(build.poll(), f"the build ended before {name} was replaced")
            self.start_worker(farm, specs, f"worker-new-{number}")
            worker.terminate()
            self.assertEqual(worker.wait(600), 0, worker.output())

    def lose_the_leader(self, farm: Farm, specs: dict[str, dict], build: subprocess.Popen) -> None:
        """Kills the server that leads, waits for the other one, and starts the first one again."""
        self.assertIsNone(build.poll(), "the build ended before a server was lost")
        leaders = [name for name in SERVERS if farm.metric(name, "bitzel_scheduler_leads") == 1]
        self.assertEqual(len(leaders), 1, "one server leads")
        lost, other = leaders[0], next(name for name in SERVERS if name not in leaders)
        address = farm.addresses[lost]
        container = next(container for container in farm.containers if container.name == lost)
        container.kill()
        container.wait(60)
        wait_until(lambda: farm.metric(other, "bitzel_scheduler_leads") == 1, 60, f"{other} leads")
        self.assertIsNone(build.poll(), "the build ended before the other server led")
        farm.end(container)
        self.start_server(farm, specs, lost, address)
        self.assertEqual(farm.metric(lost, "bitzel_scheduler_follows"), 1)

    def make_directory(self, name: str) -> Path:
        directory = self.directory / name
        directory.mkdir()
        return directory


if __name__ == "__main__":
    unittest.main()
