# SPDX-License-Identifier: Apache-2.0
"""The controller's pod as a process, with what a kubelet gives it, and a stand-in for the API server."""

from __future__ import annotations

import json
import ssl
import threading
import unittest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from certificates import Authority
from chart import NAMESPACE, objects_of
from farm import NETWORK, wait_until
from pods_case import IDENTITY, PodsCase

COST = "controller.kubernetes.io/pod-deletion-cost"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
API_HOST = "kubernetes.default.svc"
TOKEN = "token of the service account"


class Api:
    """Lists one pod to whoever has the token, and keeps the costs that are written."""

    def __init__(self, directory: Path, labels: dict[str, str], pod: str):
        self.costs: list[str] = []
        secret = Authority(directory).secret("/CN=api", API_HOST)
        for name, content in secret.items():
            (directory / name).write_bytes(content)
        self.authority = secret["ca.crt"]
        api = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self, status: int, body: dict) -> None:
                content = json.dumps(body).encode()
                self.send_response(status if self.is_authorized() else 401)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def is_authorized(self) -> bool:
                return self.headers["Authorization"] == f"Bearer {TOKEN}"

            def do_GET(self) -> None:
                url = urlsplit(self.path)
                selector = parse_qs(url.query)["labelSelector"][0]
                selected = dict(pair.split("=") for pair in selector.split(",")).items() <= labels.items()
                metadata = {"name": pod, "labels": labels, "annotations": {}}
                if api.costs:
                    metadata["annotations"][COST] = api.costs[-1]
                self.answer(200 if url.path == PODS else 404, {"items": [{"metadata": metadata}] * selected})

            def do_PATCH(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                right = self.path == f"{PODS}/{pod}" and self.is_authorized()
                if right:
                    api.costs.append(body["metadata"]["annotations"][COST])
                self.answer(200 if right else 404, {})

            def log_message(self, *arguments: object) -> None:
                """Says nothing."""

        self.server = ThreadingHTTPServer((f"{NETWORK}.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / "tls.crt", directory / "tls.key")
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        return self.server.server_address[1]

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Controller(PodsCase):
    def test_the_pod_of_the_controller_marks_an_idle_worker(self):
        values = {
            "controller": {"enabled": True, "interval": 1, "idleSeconds": 1},
            "workers": {"rootIdentity": IDENTITY},
        }
        farm, specs = self.farm(values)
        farm.start(specs["StatefulSet/t-bitzel"], "server", host="t-bitzel")
        self.wait_until_ready(farm, "server")
        farm.start(specs["Deployment/t-bitzel-worker-default"], "t-worker-x1")
        self.wait_until_ready(farm, "t-worker-x1")
        worker = objects_of(farm.documents, "Deployment")["t-bitzel-worker-default"]
        labels = worker["spec"]["template"]["metadata"]["labels"]
        directory = self.directory / "api"
        directory.mkdir()
        api = Api(directory, labels, "t-worker-x1")
        self.addCleanup(api.stop)

        # What the API server and the kubelet add to a pod with a token.
        spec = specs["Deployment/t-bitzel-controller"]
        self.assertIs(spec["automountServiceAccountToken"], True)
        container = spec["containers"][0]
        account = {"name": "account", "mountPath": ACCOUNT, "readOnly": True}
        container.setdefault("volumeMounts", []).append(account)
        secret = {"secretName": "account", "defaultMode": 0o440}
        spec.setdefault("volumes", []).append({"name": "account", "secret": secret})
        files = {"token": TOKEN.encode(), "ca.crt": api.authority, "namespace": NAMESPACE.encode()}
        farm.secrets["account"] = files
        container.setdefault("env", []).extend(
            [
                {"name": "KUBERNETES_SERVICE_HOST", "value": API_HOST},
                {"name": "KUBERNETES_SERVICE_PORT", "value": str(api.port)},
            ]
        )
        farm.addresses[API_HOST] = f"{NETWORK}.1"
        controller = farm.start(spec, "controller")

        wait_until(lambda: api.costs, 60, f"the idle worker is marked; {controller.log} says why")
        self.wait_until_ready(farm, "controller")
        self.assertEqual(api.costs, ["-100"])
        controller.terminate()
        self.assertEqual(controller.wait(30), 0, controller.output())


if __name__ == "__main__":
    unittest.main()
