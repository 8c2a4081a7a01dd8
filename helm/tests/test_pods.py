# SPDX-License-Identifier: Apache-2.0
"""The chart's pods as processes: its images, users, command lines, mounts and profiles, in containers of crun.

Builds a recipe of the demo layer through one server and two workers that have no privilege.
"""

from __future__ import annotations

import copy
import json
import os
import re
import signal
import subprocess
import unittest

import seccomp_profile
from certificates import Authority
from chart import MOBY_SECCOMP, objects_of, pod_specs, pool, render
from farm import (
    Farm,
    wait_until,
)
from oci_container import Container, Process
from pods_case import IDENTITY, PodsCase, node
from values_matrix import SECURE

# HOSTTOOLS of openembedded-core 5.2 and 6.0, without what only testimage and the archiver need.
HOST_TOOLS = """
[ ar as awk basename bash bunzip2 bzip2 cat chgrp chmod chown chrpath cmp comm cp cpio cpp cut date dd diff diffstat
dirname du echo egrep env expand expr false fgrep file find flock g++ gawk gcc getconf getopt git grep gunzip gzip head
hostname iconv id install ld ldd ln ls lz4 make md5sum mkdir mkfifo mknod mktemp mv nm objcopy objdump od patch perl pr
printf pwd python3 pzstd ranlib readelf readlink realpath rm rmdir rpcgen sed seq sh sha1sum sha224sum sha256sum
sha384sum sha512sum sleep sort split stat strings strip tail tar tee test touch tr true truncate uname uniq unzstd wc
wget which xargs zstd
""".split()  # noqa: SIM905 - a hundred words are easier to compare without quotes


class Pods(PodsCase):
    def check_sandbox(self, spec: dict, name: str) -> tuple[int, str]:
        """Exit code and output of the container `sandbox` of `helm test`."""
        farm = Farm(node(), self.directory, [])
        container = farm.start(spec, name, container=1)
        self.addCleanup(farm.remove)
        return container.wait(60), container.output()

    def test_a_recipe_builds_on_workers_without_privilege(self):
        farm, specs = self.farm({"workers": {"rootIdentity": IDENTITY}})
        server = farm.start(specs["StatefulSet/t-bitzel"], "server", host="t-bitzel")
        self.wait_until_ready(farm, "server")
        workers = {
            name: farm.start(specs["Deployment/t-bitzel-worker-default"], name)
            for name in ("worker-0", "worker-1")
        }
        for name in workers:
            self.wait_until_ready(farm, name)
        self.assert_helm_test_passes(farm, specs)

        build = self.start_build(f"grpc://{farm.addresses['server']}:8980", "zlib", "bzip2")

        # A roll-out begins while both workers have Actions.
        def busy() -> bool:
            return build.poll() is not None or all(
                farm.metric(name, "bitzel_worker_actions_running") > 0 for name in workers
            )

        wait_until(busy, 120, "both workers run Actions")
        self.assertIsNone(build.poll(), "the build ended before both workers ran Actions")
        workers["worker-0"].terminate()
        self.assertEqual(workers["worker-0"].wait(120), 0, workers["worker-0"].output())
        output, _ = build.communicate(timeout=300)
        self.assertEqual(build.returncode, 0, output)
        self.assertIn(" 0 failed", output)
        _, metrics = farm.get("server", "/metrics")
        self.assertIn('bitzel_actions_total{outcome="succeeded"}', metrics)
        for name in metrics_of_the_autoscaling_rule():
            self.assertRegex(metrics, rf"(?m)^{name} \d", "the rule adds up metrics that the server has")
        self.assertNotIn('outcome="retried"', metrics, "the roll-out took an Action from its worker")
        self.kill_a_launcher(farm, workers["worker-1"])

        server.terminate()
        self.assertEqual(server.wait(60), 0, server.output())
        wait_until(
            lambda: farm.get("worker-1", "/readyz")[0] == 503, 30, "a worker without a server is not ready"
        )
        self.assertEqual(farm.get("worker-1", "/livez")[0], 200)

    def kill_a_launcher(self, farm: Farm, worker: Container) -> None:
        """Kills a launcher as the kernel does when memory runs out: the first process has to reap what it leaves."""
        build = self.start_build(f"grpc://{farm.addresses['server']}:8980", "jansson")

        def launcher_of_a_command() -> list[Process]:
            self.assertIsNone(build.poll(), "the build ended before a launcher was killed")
            processes = worker.processes()
            parents = {process.parent for process in processes}
            # A supervisor is a launcher's child, and has the command as a child of its own.
            supervisors = [p for p in processes if p.name == "bitzel-launcher" and p.id in parents]
            launchers = {p.parent for p in supervisors}
            return [p for p in supervisors if p.id in launchers]

        launchers = wait_until(launcher_of_a_command, 120, "a launcher runs a command")
        os.kill(launchers[0].id, signal.SIGKILL)
        build.communicate(timeout=300)
        wait_until(
            lambda: all(process.state != "Z" for process in worker.processes()),
            10,
            "the supervisor was reaped",
        )

    def test_shards_and_workers_know_each_other_by_certificates(self):
        authority = Authority(self.directory)
        secrets = {
            "server-tls": authority.secret("/CN=server", "t-bitzel.farm.svc", "server.test"),
            "shards-tls": authority.secret("/CN=server", "*.t-bitzel-cas.farm.svc"),
            "worker-tls": authority.secret("/OU=workers/CN=worker"),
        }
        values = {
            **SECURE,
            "workers": {**SECURE["workers"], "rootIdentity": IDENTITY},
            "store": {"kind": "shards", "shards": {"count": 2, "tlsSecretName": "shards-tls"}},
        }
        farm, specs = self.farm(values, secrets)
        for name in ("cas-0", "cas-1"):
            farm.start(specs["StatefulSet/t-bitzel-cas"], name, host=f"t-bitzel-{name}.t-bitzel-cas")
            self.wait_until_ready(farm, name)
        farm.start(specs["StatefulSet/t-bitzel"], "server", host="t-bitzel")
        self.wait_until_ready(farm, "server")
        farm.start(specs["Deployment/t-bitzel-worker-default"], "worker")
        self.wait_until_ready(farm, "worker")
        self.assert_helm_test_passes(farm, specs)

        client = self.directory / "client-certificate"
        client.mkdir()
        for file, content in authority.secret("/CN=engineer").items():
            (client / file).write_bytes(content)
        credentials = [f"--tls-ca={client / 'ca.crt'}", f"--tls-cert={client / 'tls.crt'}"]
        credentials.append(f"--tls-key={client / 'tls.key'}")
        hosts = self.directory / "client-hosts"
        hosts.write_text(f"127.0.0.1 localhost\n{farm.addresses['server']} server.test\n")
        subprocess.run(["mount", "--bind", hosts, "/etc/hosts"], check=True)
        self.addCleanup(subprocess.run, ["umount", "/etc/hosts"], check=True)
        build = self.start_build("grpcs://server.test:8980", *credentials, "bzip2")
        output, _ = build.communicate(timeout=300)
        self.assertEqual(build.returncode, 0, output)
        for name in ("cas-0", "cas-1"):
            self.assertGreater(farm.metric(name, "bitzel_store_blobs"), 0, f"{name} has a part of the blobs")

    def test_each_isolation_makes_sandboxes(self):
        for isolation in ("unconfined", "sysAdmin"):
            spec = pod_specs(render({"workers": {"isolation": isolation}}))["Pod/t-bitzel-test"]
            code, output = self.check_sandbox(spec, isolation.lower())
            self.assertEqual(code, 0, output)
            self.assertIn("this machine can run sandboxes", output)

    def test_a_worker_can_write_in_memory(self):
        cache = {"emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}, "size": "512M"}
        farm, specs = self.farm({"pools": [pool(cache=cache, scratchMemory="1Gi")]})
        worker = farm.start(specs["Deployment/t-bitzel-worker-default"], "worker")
        # It has made a sandbox when it looks for the scheduler, which is not there.
        wait_until(
            lambda: "no connection to the scheduler" in worker.output(), 60, "the worker wants Actions"
        )
        self.assertEqual(farm.get("worker", "/readyz"), (503, "no connection to the scheduler\n"))
        worker.terminate()
        self.assertEqual(worker.wait(30), 0, worker.output())

    def test_sys_admin_needs_its_uncovered_proc(self):
        spec = copy.deepcopy(pod_specs(render({"workers": {"isolation": "sysAdmin"}}))["Pod/t-bitzel-test"])
        container = spec["containers"][1]
        container["command"] = container["command"][container["command"].index("/usr/bin/tini") :]
        spec["securityContext"].update(runAsUser=1000, runAsGroup=1000)
        code, output = self.check_sandbox(spec, "covered")
        self.assertEqual(code, 1, output)
        self.assertIn("are covered by mounts, so the kernel lets no sandbox mount a /proc of its own", output)

    def test_the_default_seccomp_profile_is_named_as_the_obstacle(self):
        spec = copy.deepcopy(pod_specs(render({}))["Pod/t-bitzel-test"])
        spec["securityContext"]["seccompProfile"] = {"type": "RuntimeDefault"}
        code, output = self.check_sandbox(spec, "filtered")
        self.assertEqual(code, 1, output)
        self.assertIn("a seccomp profile refuses the system calls unshare, mount, umount2", output)

    def test_the_profile_allows_nothing_that_a_worker_can_do_without(self):
        moby = json.loads(MOBY_SECCOMP.read_text())
        spec = pod_specs(render({}))["Pod/t-bitzel-test"]
        profile = node().seccomp / "profiles" / "bitzel-worker.json"
        whole = profile.read_text()
        self.addCleanup(profile.write_text, whole)
        for call in seccomp_profile.WORKER_CALLS:
            others = [name for name in seccomp_profile.WORKER_CALLS if name != call]
            profile.write_text(json.dumps(seccomp_profile.resolve(moby, others)))
            code, output = self.check_sandbox(spec, f"without-{call.replace('_', '-')}")
            self.assertEqual(code, 1, f"a worker works without {call}: {output}")

    def test_the_worker_image_has_the_tools_of_openembedded(self):
        image = node().images["bitzel-worker"]
        directories = [image / "usr/bin", image / "usr/sbin", image / "usr/local/bin"]
        missing = [
            tool for tool in HOST_TOOLS if not any(os.path.lexists(path / tool) for path in directories)
        ]
        self.assertEqual(missing, [])

    def test_the_server_image_has_the_program_and_its_libraries_only(self):
        image = node().images["bitzel-server"]
        programs = [path.name for path in (image / "usr/local/bin").iterdir()]
        self.assertEqual(programs, ["bitzel"])
        # The last ones are where the container runtime mounts: the token of a service account is below /var.
        directories = {path.name for path in image.iterdir()} - {"dev", "proc", "sys", "var"}
        self.assertEqual(directories, {"data", "etc", "lib", "lib64", "tmp", "usr"})


def metrics_of_the_autoscaling_rule() -> set[str]:
    documents = render({"monitoring": {"rule": {"enabled": True}}})
    rule = objects_of(documents, "PrometheusRule")["t-bitzel"]["spec"]["groups"][0]["rules"][0]
    return set(re.findall(r"bitzel_\w+", rule["expr"]))


if __name__ == "__main__":
    unittest.main()
