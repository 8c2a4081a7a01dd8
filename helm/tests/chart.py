# SPDX-License-Identifier: Apache-2.0
"""The chart as the tests render it, with the real Helm."""

from __future__ import annotations

import os
import subprocess
import unittest
from functools import cache
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "bitzel"
PEERS = ROOT / ".demo" / "peers"
HELM = Path(os.environ.get("BITZEL_TEST_HELM", PEERS / "helm" / "bin" / "helm"))
OBJECTS = Path(os.environ.get("BITZEL_TEST_OBJECTS", PEERS / "chart-objects" / "objects"))
KEDA = Path(os.environ.get("BITZEL_TEST_KEDA", PEERS / "keda" / "scaledobjects.yaml"))
CERT_MANAGER = Path(os.environ.get("BITZEL_TEST_CERT_MANAGER", PEERS / "cert-manager" / "certificates.yaml"))
MOBY_SECCOMP = Path(os.environ.get("BITZEL_TEST_MOBY", PEERS / "moby-seccomp" / "default.json"))
BITZEL = Path(os.environ.get("BITZEL_BIN", ROOT / "target" / "debug" / "bitzel"))
RELEASE, NAMESPACE = "t", "farm"


def need(*programs: Path) -> None:
    """Skips a test, visibly, if a program of the set-up is missing."""
    for program in programs:
        if not program.exists():
            reason = f"{program} is missing; tests/setup.sh installs it"
            print(f"SKIPPED: {reason}")
            raise unittest.SkipTest(reason)


def template(values: dict, kube_version: str | None = None) -> subprocess.CompletedProcess:
    command = [str(HELM), "template", RELEASE, str(CHART), "--namespace", NAMESPACE, "--values", "-"]
    if kube_version:
        command += ["--kube-version", kube_version]
    return subprocess.run(
        command, input=yaml.safe_dump(values), text=True, capture_output=True, check=False, timeout=60
    )


def render(values: dict, kube_version: str | None = None) -> list[dict]:
    rendered = template(values, kube_version)
    if rendered.returncode != 0:
        raise AssertionError(f"{rendered.stderr}\nvalues: {values}")
    return [document for document in yaml.safe_load_all(rendered.stdout) if document]


@cache
def defaults() -> dict:
    return yaml.safe_load((CHART / "values.yaml").read_text())


def pool(**fields: object) -> dict:
    """The pool of the default values, with other fields."""
    return {**defaults()["pools"][0], **fields}


def objects_of(documents: list[dict], kind: str) -> dict[str, dict]:
    return {document["metadata"]["name"]: document for document in documents if document["kind"] == kind}


def pod_specs(documents: list[dict]) -> dict[str, dict]:
    """Specs of pods and pod templates by kind and name."""
    specs = {}
    for document in documents:
        if document["kind"] == "Pod":
            specs[f"Pod/{document['metadata']['name']}"] = document["spec"]
        elif document["kind"] in ("Deployment", "StatefulSet", "DaemonSet"):
            specs[f"{document['kind']}/{document['metadata']['name']}"] = document["spec"]["template"]["spec"]
    return specs
