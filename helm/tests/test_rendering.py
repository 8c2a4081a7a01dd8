# SPDX-License-Identifier: Apache-2.0
"""What the chart renders: valid for Kubernetes, admitted by Pod Security, understood by bitzel."""

from __future__ import annotations

import copy
import ipaddress
import json
import os
import re
import subprocess
import tempfile
import unittest
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import jsonschema
import kubernetes_validate
import referencing
import yaml
from chart import (
    BITZEL,
    CERT_MANAGER,
    CHART,
    HELM,
    KEDA,
    NAMESPACE,
    OBJECTS,
    defaults,
    need,
    objects_of,
    pod_specs,
    render,
    template,
)
from values_matrix import ACCEPTED, REFUSED, SECURE

KUBERNETES = ["1.33.0", "1.34.0", "1.35.0", "1.36.0", "1.37.0"]
OLDEST_KUBERNETES = "1.31.0"
SCHEMAS = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
# Kinds with definitions of their own, which the program `objects` does not have.
DEFINED_ELSEWHERE = ("keda.sh/", "cert-manager.io/")
# The types of the Prometheus operator are in that program.
FOREIGN = ("monitoring.coreos.com/", *DEFINED_ELSEWHERE)


@cache
def validator(kind: str, api_version: str, kubernetes: str) -> jsonschema.Draft202012Validator:
    """Validator of one kind of object that refuses unknown fields, from the OpenAPI of a Kubernetes version."""
    directory = SCHEMAS / f"v{kubernetes}-local-strict"
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)
    schema = json.loads((directory / f"{kind.lower()}-{group}.json").read_text())
    registry = definitions(kubernetes) @ (referencing.Resource.from_contents(schema) @ referencing.Registry())
    return jsonschema.Draft202012Validator(schema, registry=registry)


@cache
def definitions(kubernetes: str) -> referencing.Resource:
    text = (SCHEMAS / f"v{kubernetes}-local-strict" / "_definitions.json").read_text()
    return referencing.Resource.from_contents(json.loads(text))


def closed(schema: dict) -> dict:
    """A schema that refuses unknown fields, as the API server drops them."""
    if "properties" in schema:
        schema = {
            **schema,
            "additionalProperties": False,
            "properties": {key: closed(value) for key, value in schema["properties"].items()},
        }
    if isinstance(schema.get("items"), dict):
        schema = {**schema, "items": closed(schema["items"])}
    return schema


@cache
def rendered(name: str) -> list[dict]:
    return render(ACCEPTED[name])


def each_accepted() -> Iterator[tuple[str, list[dict]]]:
    for name in ACCEPTED:
        yield name, rendered(name)


def verdicts(documents: list[dict], *versions: str) -> dict[tuple[str, str, str], str]:
    """Verdicts of Pod Security by pod, level and version."""
    judged = subprocess.run(
        [str(OBJECTS), *versions],
        input=yaml.safe_dump_all([d for d in documents if not d["apiVersion"].startswith(DEFINED_ELSEWHERE)]),
        text=True,
        capture_output=True,
        check=False,
    )
    if judged.returncode != 0:
        raise AssertionError(judged.stderr)
    lines = [line.split("\t") for line in judged.stdout.splitlines()]
    return {(f"{kind}/{name}", level, version): verdict for kind, name, level, version, verdict in lines}


class Rendering(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        need(HELM, OBJECTS, BITZEL)

    def test_helm_lints_without_a_warning(self):
        linted = subprocess.run(
            [str(HELM), "lint", "--strict", str(CHART)], text=True, capture_output=True, check=False
        )
        self.assertEqual(linted.returncode, 0, linted.stdout + linted.stderr)
        self.assertNotIn("WARNING", linted.stdout)

    def test_the_notes_name_the_server(self):
        for name, values in ACCEPTED.items():
            command = [str(HELM), "install", "t", str(CHART), "--namespace", NAMESPACE, "--dry-run=client"]
            installed = subprocess.run(
                [*command, "--values", "-"],
                input=yaml.safe_dump(values),
                text=True,
                capture_output=True,
                check=False,
            )
            self.assertEqual(installed.returncode, 0, f"{name}: {installed.stderr}")
            notes = installed.stdout.split("NOTES:")[1]
            if values.get("server", {}).get("enabled", True):
                self.assertRegex(notes, r"is at grpcs?://(t-bitzel|farm|a{40})\.farm\.svc:8980", name)

    def test_kubernetes_of_each_version_knows_every_field(self):
        for _, documents in each_accepted():
            for document in documents:
                if document["apiVersion"].startswith(FOREIGN):
                    continue
                for version in KUBERNETES:
                    validator(document["kind"], document["apiVersion"], version).validate(document)

    def test_the_oldest_kubernetes_takes_sys_admin_only(self):
        documents = render(ACCEPTED["sysAdmin"], OLDEST_KUBERNETES)
        for document in documents:
            validator(document["kind"], document["apiVersion"], OLDEST_KUBERNETES).validate(document)
        refused = template({}, OLDEST_KUBERNETES)
        self.assertIn("needs Kubernetes 1.33 or newer", refused.stderr)

    def test_an_unknown_field_would_be_found(self):
        documents = [dict(document) for document in rendered("defaults") if document["kind"] == "Deployment"]
        documents[0]["spec"] = {**documents[0]["spec"], "replica": 1}
        with self.assertRaises(jsonschema.ValidationError):
            validator("Deployment", "apps/v1", KUBERNETES[0]).validate(documents[0])
        with self.assertRaisesRegex(AssertionError, 'unknown field "replica"'):
            verdicts(documents, "v1.35")

    def test_the_api_server_would_refuse_a_pod_that_cannot_start(self):
        documents = copy.deepcopy([d for d in rendered("defaults") if d["kind"] == "Deployment"])
        documents[0]["spec"]["template"]["spec"]["hostUsers"] = True
        with self.assertRaisesRegex(AssertionError, "`hostUsers` must be false to use `Unmasked`"):
            verdicts(documents, "v1.37")

    def test_the_api_server_would_create_every_object(self):
        for name, documents in each_accepted():
            self.assertTrue(verdicts(documents, "v1.35"), name)

    def test_baseline_admits_the_defaults_from_1_35(self):
        judged = verdicts(rendered("defaults"), "v1.34", "v1.35", "v1.36", "v1.37")
        for (pod, level, version), verdict in judged.items():
            server = pod == "StatefulSet/t-bitzel"
            if server or (level == "baseline" and version != "v1.34"):
                self.assertEqual(verdict, "allowed", f"{pod} {level} {version}")
            else:
                self.assertIn("procMount", verdict, f"{pod} {level} {version}")
                self.assertNotIn(",", verdict.split(" (")[0], "nothing but procMount is refused")

    def test_restricted_admits_servers_and_shards(self):
        for name, documents in each_accepted():
            for (pod, level, _), verdict in verdicts(documents, "v1.37").items():
                if pod.startswith("StatefulSet/"):
                    self.assertEqual(verdict, "allowed", f"{name}: {pod} {level}")

    def test_baseline_refuses_the_other_isolations(self):
        for name in ("unconfined", "sysAdmin"):
            worker = verdicts(rendered(name), "v1.37")[
                "Deployment/t-bitzel-worker-default", "baseline", "v1.37"
            ]
            self.assertIn("seccompProfile", worker)

    def test_bitzel_accepts_every_configuration_file(self):
        checked = 0
        for _, documents in each_accepted():
            for config_map in objects_of(documents, "ConfigMap").values():
                text = config_map["data"].get("bitzel.toml")
                if text is None:
                    continue
                with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
                    file.write(text)
                    file.flush()
                    command = [str(BITZEL), "config", "check", file.name]
                    check = subprocess.run(command, text=True, capture_output=True, check=False)
                self.assertEqual(check.returncode, 0, f"{text}\n{check.stderr}")
                checked += 1
        self.assertGreaterEqual(checked, 25)

    def test_bitzel_parses_every_command_line(self):
        parsed = 0
        for _, documents in each_accepted():
            for pod, spec in pod_specs(documents).items():
                for container in spec["containers"]:
                    line = [*container["command"], *container.get("args", [])]
                    if "/usr/local/bin/bitzel" not in line:
                        continue
                    self.assert_parsed(pod, line[line.index("/usr/local/bin/bitzel") + 1 :])
                    parsed += 1
        self.assertGreater(parsed, len(ACCEPTED))

    def assert_parsed(self, pod: str, arguments: list[str]) -> None:
        """What cannot exist ends bitzel right after it has read its command line: a directory, or a service account."""
        if arguments[0] == "kubernetes-controller":
            obstacle = "cannot read /var/run/secrets/kubernetes.io/serviceaccount/namespace"
        else:
            self.assertIn("--cache-dir=/data", arguments, pod)
            obstacle = "cannot use the cache directory /dev/null/bitzel"
        impossible = "/dev/null/bitzel"
        arguments = [
            argument.replace("--cache-dir=/data", f"--cache-dir={impossible}") for argument in arguments
        ]
        ended = subprocess.run(
            [str(BITZEL), *arguments],
            text=True,
            capture_output=True,
            check=False,
            env={"PATH": os.environ["PATH"]},
        )
        self.assertIn(obstacle, ended.stderr, f"{pod}: {arguments}")

    def test_refuses_what_cannot_work_with_a_sentence(self):
        for name, (values, sentence) in REFUSED.items():
            with self.subTest(name):
                self.assertTrue(sentence)
                refused = template(values)
                self.assertNotEqual(refused.returncode, 0, refused.stdout)
                self.assertIn(sentence, refused.stderr)

    def test_the_schema_has_every_value(self):
        schema = json.loads((CHART / "values.schema.json").read_text())

        def compare(values: dict, part: dict, path: str) -> None:
            while "$ref" in part:
                part = schema["definitions"][part["$ref"].split("/")[-1]]
            known = part.get("properties")
            if known is None:
                return
            self.assertFalse(part["additionalProperties"], path)
            optional = ("pools", "access.tokens", "server.execution", "server.limits", "nodeProfiles.sysctls")
            if path not in optional:
                self.assertEqual(set(known) - {"global"}, set(values), path)
            for key, value in values.items():
                if isinstance(value, dict):
                    compare(value, known[key], f"{path}.{key}".lstrip("."))

        compare(defaults(), schema, "")

    def test_every_table_of_values_has_a_comment(self):
        lines = (CHART / "values.yaml").read_text().splitlines()
        for number, line in enumerate(lines):
            if re.match(r"^[a-z]\w*:", line):
                self.assertTrue(lines[number - 1].startswith("#"), f"line {number + 1}: {line}")

    def test_drain_and_grace_period_agree(self):
        for seconds in (1, 600, 86400):
            specs = pod_specs(render({"workers": {"drainSeconds": seconds}}))
            spec = specs["Deployment/t-bitzel-worker-default"]
            self.assertEqual(spec["terminationGracePeriodSeconds"], seconds + 60)
            self.assertIn(f"--drain-timeout={seconds}", spec["containers"][0]["args"])

    def test_a_changed_rule_restarts_nothing(self):
        def stamp(values: dict) -> str:
            server = objects_of(render(values), "StatefulSet")["t-bitzel"]
            return server["spec"]["template"]["metadata"]["annotations"]["bitzel.io/configuration"]

        other = {**SECURE, "access": {**SECURE["access"], "anonymous": ["read"]}}
        self.assertEqual(stamp(SECURE), stamp(other))
        self.assertNotEqual(stamp(SECURE), stamp({**SECURE, "server": {"limits": {"connections": 10}}}))
        self.assertNotEqual(stamp({}), stamp({"store": {"disk": {"size": "1GiB"}}}))

    def test_only_the_controller_has_rights_and_a_token(self):
        for name, documents in each_accepted():
            kinds = [document["kind"] for document in documents]
            with_controller = "Deployment/t-bitzel-controller" in pod_specs(documents)
            self.assertFalse({"ClusterRole", "ClusterRoleBinding"} & set(kinds), name)
            for kind in ("Role", "RoleBinding"):
                self.assertEqual(kinds.count(kind), int(with_controller), name)
            for role in objects_of(documents, "Role").values():
                allowed = {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "patch"]}
                self.assertEqual(role["rules"], [allowed])
            for binding in objects_of(documents, "RoleBinding").values():
                account = {"kind": "ServiceAccount", "name": "t-bitzel-controller", "namespace": NAMESPACE}
                self.assertEqual(binding["subjects"], [account])
            accounts = objects_of(documents, "ServiceAccount")
            for account in accounts.values():
                self.assertIs(account["automountServiceAccountToken"], False)
            for pod, spec in pod_specs(documents).items():
                of_controller = pod == "Deployment/t-bitzel-controller"
                self.assertIs(spec["automountServiceAccountToken"], of_controller, pod)
                self.assertEqual(spec["serviceAccountName"] == "t-bitzel-controller", of_controller, pod)
                self.assertIn(spec["serviceAccountName"], accounts, pod)

    def test_the_controller_looks_at_the_pods_of_the_workers(self):
        documents = rendered("controller")
        specs = pod_specs(documents)
        controller = specs["Deployment/t-bitzel-controller"]["containers"][0]
        selector = next(a for a in controller["args"] if a.startswith("--selector="))
        selected = dict(pair.split("=") for pair in selector.removeprefix("--selector=").split(","))
        labels = {
            name: document["spec"]["template"]["metadata"]["labels"]
            for kind in ("Deployment", "StatefulSet")
            for name, document in objects_of(documents, kind).items()
        }
        found = [name for name, own in labels.items() if selected.items() <= own.items()]
        self.assertEqual(found, ["t-bitzel-worker-default"])
        worker = specs["Deployment/t-bitzel-worker-default"]["containers"][0]
        self.assertIn("--name=$(POD_NAME)", worker["args"])
        self.assertEqual(worker["env"][0]["valueFrom"], {"fieldRef": {"fieldPath": "metadata.name"}})
        for container in (worker, controller):
            subcommand = next(a for a in container["args"] if not a.startswith("-"))
            help_text = subprocess.run(
                [str(BITZEL), subcommand, "--help"], capture_output=True, text=True, check=True
            )
            for argument in container["args"]:
                if argument.startswith("--"):
                    self.assertIn(argument.split("=")[0], help_text.stdout, subcommand)

    def test_several_servers_have_names_a_budget_and_other_nodes(self):
        documents = rendered("several servers on shards")
        stateful = objects_of(documents, "StatefulSet")["t-bitzel"]
        spec = stateful["spec"]["template"]["spec"]
        self.assertEqual(stateful["spec"]["replicas"], 3)
        service = objects_of(documents, "Service")[stateful["spec"]["serviceName"]]
        self.assertEqual(service["spec"]["clusterIP"], "None")
        self.assertIs(service["spec"]["publishNotReadyAddresses"], True)
        address = next(a for a in spec["containers"][0]["args"] if a.startswith("--scheduler-address="))
        name = f"$(POD_NAME).{service['metadata']['name']}.{NAMESPACE}.svc:8980"
        self.assertEqual(address, f"--scheduler-address=grpc://{name}")
        self.assertEqual(spec["containers"][0]["env"][0]["name"], "POD_NAME")
        budget = objects_of(documents, "PodDisruptionBudget")["t-bitzel"]
        self.assertEqual(budget["spec"]["maxUnavailable"], 1)
        spread = [constraint["topologyKey"] for constraint in spec["topologySpreadConstraints"]]
        self.assertEqual(spread, ["kubernetes.io/hostname", "topology.kubernetes.io/zone"])
        policy = objects_of(documents, "NetworkPolicy")["t-bitzel-server"]
        components = [
            peer["podSelector"]["matchLabels"].get("app.kubernetes.io/component")
            for peer in policy["spec"]["ingress"][0]["from"]
        ]
        self.assertIn("server", components, "servers forward to each other")
        for _, other in each_accepted():
            text = yaml.safe_dump_all(other)
            self.assertNotIn("PGPASSWORD", text)

    def test_one_server_has_no_budget_that_blocks_drains(self):
        self.assertNotIn("t-bitzel", objects_of(rendered("defaults"), "PodDisruptionBudget"))

    def test_every_mount_has_its_volume(self):
        for _, documents in each_accepted():
            claims = {
                f"StatefulSet/{name}": {
                    claim["metadata"]["name"] for claim in document["spec"].get("volumeClaimTemplates", [])
                }
                for name, document in objects_of(documents, "StatefulSet").items()
            }
            for pod, spec in pod_specs(documents).items():
                volumes = {volume["name"] for volume in spec.get("volumes", [])} | claims.get(pod, set())
                mounted = {
                    mount["name"]
                    for container in [*spec.get("initContainers", []), *spec["containers"]]
                    for mount in container.get("volumeMounts", [])
                }
                self.assertEqual(mounted, volumes, pod)

    def test_selectors_select_their_own_pods_only(self):
        for name, documents in each_accepted():
            labels = {
                document["metadata"]["name"]: document["spec"]["template"]["metadata"]["labels"]
                for document in documents
                if document["kind"] in ("Deployment", "StatefulSet", "DaemonSet")
            }
            for document in documents:
                if document["kind"] in ("Deployment", "StatefulSet", "DaemonSet"):
                    selector = document["spec"]["selector"]["matchLabels"]
                    selected = [pod for pod, own in labels.items() if selector.items() <= own.items()]
                    self.assertEqual(selected, [document["metadata"]["name"]], name)

    def test_only_the_scaler_publishes_the_admin_port(self):
        for name, documents in each_accepted():
            publishing = [
                service["metadata"]["name"]
                for service in objects_of(documents, "Service").values()
                if "admin" in [port["targetPort"] for port in service["spec"]["ports"]]
            ]
            self.assertEqual(publishing, ["t-bitzel-scaler"] if name == "pools by KEDA" else [], name)

    def test_keda_knows_every_field(self):
        need(KEDA)
        versions = yaml.safe_load(KEDA.read_text())["spec"]["versions"]
        schema = closed(versions[0]["schema"]["openAPIV3Schema"])
        pools = objects_of(rendered("pools by KEDA"), "ScaledObject")
        self.assertEqual(sorted(pools), ["t-bitzel-worker-default", "t-bitzel-worker-large"])
        for pool in pools.values():
            self.assertEqual(pool["apiVersion"], f"keda.sh/{versions[0]['name']}")
            jsonschema.validate({**pool, "metadata": {}}, schema)
        unknown = {**pool, "metadata": {}, "spec": {**pool["spec"], "minReplicas": 1}}
        with self.assertRaises(jsonschema.ValidationError):
            jsonschema.validate(unknown, schema)

    def test_cert_manager_knows_every_field(self):
        need(CERT_MANAGER)
        schema = closed(
            yaml.safe_load(CERT_MANAGER.read_text())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        )
        documents = rendered("certificates by cert-manager")
        certificates = objects_of(documents, "Certificate")
        for certificate in certificates.values():
            jsonschema.validate({**certificate, "metadata": {}}, schema)
        with self.assertRaises(jsonschema.ValidationError):
            unknown = {**certificate, "metadata": {}, "spec": {**certificate["spec"], "dnsName": "a"}}
            jsonschema.validate(unknown, schema)
        # Each Secret with a certificate that a pod mounts is made by one.
        mounted = {
            source["secret"]["secretName"]
            for spec in pod_specs(documents).values()
            for volume in spec["volumes"]
            for source in [volume, *volume.get("projected", {}).get("sources", [])]
            if "secret" in source and "secretName" in source["secret"]
        }
        made = {certificate["spec"]["secretName"] for certificate in certificates.values()}
        self.assertLessEqual({name for name in mounted if name.endswith("-tls")}, made)
        self.assertEqual(made, {"server-tls", "shards-tls", "worker-tls", "controller-tls"})
        names = certificates["t-bitzel-server"]["spec"]["dnsNames"]
        self.assertEqual(names, [f"t-bitzel.{NAMESPACE}.svc", f"*.t-bitzel-servers.{NAMESPACE}.svc"])
        worker = certificates["t-bitzel-worker"]["spec"]
        self.assertIn(worker["subject"]["organizationalUnits"][0], SECURE["access"]["rules"][1]["groups"])

    def test_keda_asks_for_the_pools_of_the_workers(self):
        documents = rendered("pools by KEDA")
        workers = pod_specs(documents)
        service = objects_of(documents, "Service")["t-bitzel-scaler"]
        for name, scaled in objects_of(documents, "ScaledObject").items():
            target = scaled["spec"]["scaleTargetRef"]["name"]
            self.assertEqual(target, name)
            arguments = workers[f"Deployment/{target}"]["containers"][0]["args"]
            asked = scaled["spec"]["triggers"][0]["metadata"]
            self.assertIn(f"--pool={asked['pool']}", arguments)
            self.assertIn(f"--jobs={asked['jobs']}", arguments)
            port = service["spec"]["ports"][0]["port"]
            self.assertEqual(asked["scalerAddress"], f"t-bitzel-scaler.{NAMESPACE}.svc:{port}")
            self.assertTrue(all(isinstance(value, str) for value in asked.values()))

    def test_workers_do_not_reach_keys_of_clouds(self):
        def excepts(values: dict) -> list[list[str]]:
            policy = objects_of(render(values), "NetworkPolicy")["t-bitzel-worker"]
            blocks = [peer["ipBlock"] for peer in policy["spec"]["egress"][0]["to"]]
            self.assertEqual([block["cidr"] for block in blocks], ["0.0.0.0/0", "::/0"])
            return [block.get("except", []) for block in blocks]

        networks = [ipaddress.ip_network(text) for texts in excepts({}) for text in texts]
        for service in [
            "169.254.169.254",  # AWS, Google Cloud, Azure and others
            "169.254.170.23",  # EKS Pod Identity
            "168.63.129.16",  # Azure
            "fd00:ec2::254",  # AWS
            "fd00:ec2::23",  # EKS Pod Identity
            "fd20:ce::254",  # Google Cloud
            "fe80::a9fe:a9fe",  # OpenStack
        ]:
            self.assertTrue(any(ipaddress.ip_address(service) in network for network in networks), service)
        # NodeLocal DNSCache.
        self.assertFalse(any(ipaddress.ip_address("169.254.20.10") in network for network in networks))
        nothing = {"networkPolicy": {"workerEgressExcept": [], "workerEgressExceptIPv6": []}}
        self.assertEqual(excepts(nothing), [[], []])

    def test_the_server_of_workers_is_the_service(self):
        documents = rendered("rules and certificates")
        arguments = pod_specs(documents)["Deployment/t-bitzel-worker-default"]["containers"][0]["args"]
        self.assertEqual(arguments[1], f"grpcs://t-bitzel.{NAMESPACE}.svc:8980")
        self.assertIn("t-bitzel", objects_of(documents, "Service"))


if __name__ == "__main__":
    unittest.main()
