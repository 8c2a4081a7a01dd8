# SPDX-License-Identifier: Apache-2.0
"""A real API server takes what the chart renders, and the controller marks pods in it with the rights of the chart."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

from api_server import ApiServer, Refused
from chart import BITZEL, HELM, NAMESPACE, PEERS, need, objects_of, render
from farm import wait_until
from values_matrix import ACCEPTED

PROGRAM = Path(os.environ.get("BITZEL_TEST_APISERVER", PEERS / "kube-apiserver" / "kube-apiserver"))
COST = "controller.kubernetes.io/pod-deletion-cost"
# Kinds that are no part of Kubernetes.
FOREIGN = ("monitoring.coreos.com/", "keda.sh/", "cert-manager.io/")
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"


class RealApiServer(unittest.TestCase):
    api: ApiServer

    @classmethod
    def setUpClass(cls) -> None:
        need(HELM, BITZEL, PROGRAM)
        if shutil.which("etcd") is None:
            print("SKIPPED: real API server: etcd is missing; tests/setup.sh installs it")
            raise unittest.SkipTest("no etcd")
        scratch = tempfile.TemporaryDirectory(prefix="bitzel-api-server-")
        cls.addClassCleanup(scratch.cleanup)
        cls.api = ApiServer(PROGRAM, Path(scratch.name))
        cls.addClassCleanup(cls.api.stop)
        wait_until(cls.api.is_ready, 180, "the API server is ready")
        # Pod Security admits or refuses, as on the cluster of the README.
        label = {"pod-security.kubernetes.io/enforce": "baseline"}
        namespace = {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": NAMESPACE, "labels": label},
        }
        cls.api.call("POST", "/api/v1/namespaces", namespace)

    def test_it_takes_every_object(self):
        taken = 0
        for name, values in ACCEPTED.items():
            for document in render(values):
                # The pod of `helm test` comes when the others are there, and needs its ServiceAccount.
                if document["apiVersion"].startswith(FOREIGN) or document["kind"] == "Pod":
                    continue
                with self.subTest(name, kind=document["kind"]):
                    self.api.create(document, NAMESPACE, dry_run=True)
                    taken += 1
        self.assertGreater(taken, 200)

    def test_it_refuses_a_mistake(self):
        document = objects_of(render({}), "Deployment")["t-bitzel-worker-default"]
        document["spec"]["template"]["spec"]["hostUsers"] = True
        with self.assertRaisesRegex(Refused, "`hostUsers` must be false to use `Unmasked`"):
            self.api.create(document, NAMESPACE, dry_run=True)

    def test_the_controller_marks_pods_with_the_rights_of_the_chart(self):
        documents = render({"controller": {"enabled": True}})
        for document in documents:
            if document["kind"] in ("ServiceAccount", "Role", "RoleBinding"):
                self.api.create(document, NAMESPACE)
        # What the controllers of Kubernetes would make of the Deployment.
        worker = objects_of(documents, "Deployment")["t-bitzel-worker-default"]["spec"]["template"]
        for name in ("idle", "starting"):
            pod = {"apiVersion": "v1", "kind": "Pod", **worker}
            pod["metadata"] = {**worker["metadata"], "name": name}
            self.api.create(pod, NAMESPACE)
        token = self.token("t-bitzel-controller")
        self.assert_only_pods_are_listed_and_patched(token)

        with tempfile.TemporaryDirectory() as scratch:
            directory = Path(scratch)
            (directory / "token").write_text(token)
            server = self.start(directory, "serve", "--listen=127.0.0.1:0", "--jobs=0")
            url = next(word for word in server.stdout.readline().split() if word.startswith("grpc://"))
            self.start(directory, "worker", url, "--name=idle", "--allow-root")
            arguments = objects_of(documents, "Deployment")["t-bitzel-controller"]["spec"]["template"][
                "spec"
            ]["containers"][0]["args"]
            selector = next(argument for argument in arguments if argument.startswith("--selector="))
            self.start(
                directory,
                "kubernetes-controller",
                f"--remote={url}",
                selector,
                f"--kubernetes-api={self.api.address}",
                f"--kubernetes-ca={self.api.authority}",
                f"--kubernetes-token-file={directory / 'token'}",
                f"--namespace={NAMESPACE}",
                "--interval=1",
                "--idle-time=1",
            )
            wait_until(lambda: self.cost("idle") == "-100", 120, "the idle worker is marked")
            self.assertIsNone(self.cost("starting"), "it has no worker yet")

    def start(self, directory: Path, *arguments: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [str(BITZEL), "--cache-dir", str(directory / arguments[0]), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def token(self, account: str) -> str:
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        path = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{account}/token"
        return self.api.call("POST", path, request)["status"]["token"]

    def cost(self, pod: str) -> str | None:
        metadata = self.api.call("GET", f"{PODS}/{pod}")["metadata"]
        return metadata.get("annotations", {}).get(COST)

    def assert_only_pods_are_listed_and_patched(self, token: str) -> None:
        self.api.call("GET", PODS, token=token)
        for method, path in [
            ("GET", f"/api/v1/namespaces/{NAMESPACE}/secrets"),
            ("GET", "/api/v1/namespaces/default/pods"),
            ("DELETE", f"{PODS}/idle"),
        ]:
            with self.assertRaises(Refused) as refused:
                self.api.call(method, path, token=token)
            self.assertEqual(refused.exception.status, 403, path)


if __name__ == "__main__":
    unittest.main()
