# SPDX-License-Identifier: Apache-2.0
"""Values that the chart is tested with: each name is a way to run a farm, or a refusal."""

from __future__ import annotations

from chart import pool

RULES = {
    "mode": "rules",
    "rules": [
        {"identities": ["*"], "allow": ["read", "cas-write", "execute", "network"]},
        {"groups": ["workers"], "methods": ["certificate"], "allow": ["worker", "read", "cas-write"]},
    ],
}
CERTIFICATE = {"credentials": {"secretName": "worker-tls", "ca": True, "certificate": True}}
# A pool without a number of workers.
UNSIZED = {key: value for key, value in pool().items() if key != "replicas"}
SECURE = {"access": RULES, "tls": {"secretName": "server-tls", "clientCa": True}, "workers": CERTIFICATE}

ACCEPTED: dict[str, dict] = {
    "defaults": {},
    "unconfined": {"workers": {"isolation": "unconfined"}},
    "sysAdmin": {"workers": {"isolation": "sysAdmin"}},
    "another AppArmor profile": {"workers": {"appArmorProfile": "site/bitzel-worker"}},
    "nodes without AppArmor": {"workers": {"appArmorProfile": ""}},
    "no AppArmor profile": {"workers": {"appArmorProfile": "Unconfined"}},
    "rules and certificates": SECURE,
    "tokens and passwords": {
        "access": {
            "mode": "rules",
            "anonymous": ["read"],
            "rules": [
                {
                    "groups": ["ci"],
                    "methods": ["token"],
                    "instances": ["main", "release/*"],
                    "allow": ["ac-write"],
                }
            ],
            "tokens": {
                "keys": "https://issuer.example/jwks.json",
                "issuer": "https://issuer.example",
                "audiences": ["bitzel"],
            },
            "passwordsSecretName": "passwords",
        },
        "tls": {"secretName": "server-tls"},
        "workers": {"credentials": {"secretName": "worker-token", "ca": True, "token": True}},
    },
    "load balancer": {
        **SECURE,
        "server": {
            "service": {
                "type": "LoadBalancer",
                "annotations": {"example.com/internal": "true"},
                "loadBalancerSourceRanges": ["10.0.0.0/8"],
            }
        },
    },
    "shards": {"store": {"kind": "shards", "shards": {"count": 3}}},
    "shards with TLS": {"store": {"kind": "shards", "shards": {"tlsSecretName": "shards-tls"}}},
    "bazel-remote": {"store": {"kind": "grpc", "grpc": {"endpoint": "grpc://bazel-remote.cache:9092"}}},
    "Buildbarn with TLS": {
        "store": {
            "kind": "grpc",
            "grpc": {
                "endpoint": "grpcs://storage.example:443",
                "instance": "yocto",
                "secretName": "store",
                "ca": True,
                "certificate": True,
                "token": True,
            },
        }
    },
    "bucket": {
        "store": {
            "kind": "s3",
            "s3": {"bucket": "builds", "region": "eu-central-1", "secretName": "keys", "renewAfter": "7d"},
        }
    },
    "bucket without a cache": {
        "store": {
            "kind": "s3",
            "s3": {
                "bucket": "builds",
                "endpoint": "https://minio.example:9000",
                "region": "x",
                "cacheSize": "",
            },
        }
    },
    "stores of one's own": {"store": {"kind": "custom", "custom": "[blobs.memory]\n[actions.memory]\n"}},
    "existing claim": {"server": {"volume": {"type": "existingClaim", "claimName": "store"}}},
    "volume of the pod": {"server": {"volume": {"type": "emptyDir"}}},
    "large numbers": {
        "server": {
            "execution": {"max_queued_actions": 20000000, "max_attempts": 5, "no_worker_timeout": "10m"},
            "limits": {"connections": 20000, "bytes_in_flight_per_identity": 1073741824},
        },
        "store": {"disk": {"maxResults": 30000000}},
    },
    "everything around": {
        "fullnameOverride": "farm",
        "imagePullSecrets": [{"name": "registry"}],
        "images": {
            "server": {"repository": "registry.example:5000/a/bitzel-server", "digest": "sha256:" + "a" * 64},
            "worker": {"repository": "registry.example:5000/a/bitzel-worker", "tag": "1.2"},
        },
        "server": {
            "httpCache": {"enabled": True},
            "otlpEndpoint": "http://collector:4317",
            "env": [{"name": "OTEL_TRACES_SAMPLER", "value": "always_on"}],
            "podDisruptionBudget": {"enabled": True},
            "podAnnotations": {"a": "b"},
            "podLabels": {"c": "d"},
            "nodeSelector": {"disk": "ssd"},
            "tolerations": [{"key": "builds", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {}},
            "priorityClassName": "high",
            "serviceAccount": {"annotations": {"role": "server"}},
        },
        "workers": {
            "otlpEndpoint": "http://collector:4317",
            "serviceAccount": {"annotations": {"role": "worker"}},
        },
        "monitoring": {
            "podMonitor": {"enabled": True, "labels": {"prometheus": "main"}},
            "rule": {"enabled": True, "labels": {"prometheus": "main"}},
        },
        "networkPolicy": {
            "clients": [{"namespaceSelector": {"matchLabels": {"team": "yocto"}}}],
            "workerEgressExcept": ["169.254.169.254/32", "10.0.0.0/8"],
            "workerEgressExceptIPv6": ["fd00::/8"],
        },
    },
    "long names": {"fullnameOverride": "a" * 40, "pools": [pool(name="b" * 20)], "store": {"kind": "shards"}},
    "no network policy": {"networkPolicy": {"enabled": False}},
    "two pools": {
        "pools": [
            pool(
                name="small",
                replicas=1,
                jobs=1,
                properties={"pool": "small", "gpu": False, "cores": 4},
                scratchMemory="2Gi",
                podLabels={"size": "small"},
                podAnnotations={"a": "b"},
                topologySpreadConstraints=[
                    {
                        "maxSkew": 2,
                        "topologyKey": "topology.kubernetes.io/zone",
                        "whenUnsatisfiable": "ScheduleAnyway",
                        "labelSelector": {"matchLabels": {"bitzel.io/pool": "small"}},
                    }
                ],
                priorityClassName="low",
            ),
            pool(
                name="large",
                replicas=0,
                jobs=64,
                cache={"size": "500G", "hostPath": {"path": "/mnt/disks/ssd0/bitzel"}},
                affinity={"nodeAffinity": {}, "podAntiAffinity": {}},
                nodeSelector={"kubernetes.io/arch": "arm64"},
                tolerations=[{"key": "builds", "operator": "Exists"}],
                maxUnavailable=1,
            ),
        ]
    },
    "claims and load": {
        "pools": [
            {
                **UNSIZED,
                "cache": {"size": "50G", "claim": {"size": "200Gi", "storageClassName": "fast"}},
                "autoscaling": {"min": 1, "max": 20, "scaleDownSeconds": 900},
            }
        ],
        "monitoring": {"podMonitor": {"enabled": True}, "rule": {"enabled": True}},
    },
    "pools by KEDA": {
        "pools": [
            {**UNSIZED, "autoscaling": {"min": 0, "max": 20, "idle": 2, "scaleDownSeconds": 0}},
            {**UNSIZED, "name": "large", "jobs": 16, "autoscaling": {"min": 1, "max": 3}},
        ],
        "autoscaling": {"by": "keda", "pollingInterval": 5},
    },
    "several servers on shards": {
        "server": {"replicas": 3},
        "postgresql": {
            "url": "postgresql://bitzel@db.example:5433/bitzel",
            "passwordSecretName": "postgresql-password",
            "caSecretName": "postgresql-ca",
            "leaseTime": "5s",
        },
        "store": {"kind": "shards", "shards": {"count": 2, "tlsSecretName": "shards-tls"}},
    },
    "several servers on a bucket with rules": {
        **SECURE,
        "server": {
            "replicas": 2,
            "volume": {"type": "emptyDir"},
            "topologySpreadConstraints": [
                {
                    "maxSkew": 1,
                    "topologyKey": "topology.kubernetes.io/zone",
                    "whenUnsatisfiable": "DoNotSchedule",
                    "labelSelector": {"matchLabels": {"app.kubernetes.io/component": "server"}},
                }
            ],
        },
        "tls": {"secretName": "server-tls", "clientCa": True, "serversCa": True},
        "postgresql": {"url": "postgres://db/bitzel?sslmode=disable"},
        "store": {"kind": "s3", "s3": {"bucket": "builds", "region": "x"}},
    },
    "certificates by cert-manager": {
        **SECURE,
        "tls": {"secretName": "server-tls", "clientCa": True, "serversCa": True},
        "server": {"replicas": 2},
        "postgresql": {"url": "postgresql://bitzel@db.example/bitzel"},
        "store": {"kind": "shards", "shards": {"tlsSecretName": "shards-tls"}},
        "controller": {
            "enabled": True,
            "credentials": {"secretName": "controller-tls", "ca": True, "certificate": True},
        },
        "certManager": {"enabled": True, "issuer": {"name": "farm", "kind": "ClusterIssuer"}},
    },
    "one server with PostgreSQL": {"postgresql": {"url": "postgresql://bitzel@db.example/bitzel"}},
    "controller": {
        "controller": {
            "enabled": True,
            "interval": 5,
            "idleSeconds": 0,
            "nodeSelector": {"a": "b"},
            "tolerations": [{"key": "system", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {}},
            "priorityClassName": "low",
        }
    },
    "controller with a certificate": {
        **SECURE,
        "controller": {
            "enabled": True,
            "credentials": {"secretName": "controller-tls", "ca": True, "certificate": True, "token": True},
        },
    },
    "cache in memory": {
        "pools": [pool(cache={"emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}, "size": "4G"})]
    },
    "workers of another release": {
        "server": {"enabled": False},
        "workers": {"serverEndpoint": "grpc://build.example:8980"},
    },
    "profiles of the nodes": {"server": {"enabled": False}, "pools": [], "nodeProfiles": {"enabled": True}},
    "profiles of the nodes without AppArmor": {
        "server": {"enabled": False},
        "pools": [],
        "nodeProfiles": {
            "enabled": True,
            "appArmor": False,
            "sysctls": {"kernel.unprivileged_userns_clone": 1},
            "nodeSelector": {"pool": "builds"},
            "tolerations": [{"operator": "Exists"}],
        },
    },
}

# Values, and a part of the sentence that refuses them.
REFUSED: dict[str, tuple[dict, str]] = {
    "unknown key": ({"workerss": {}}, "additional properties 'workerss' not allowed"),
    "unknown isolation": (
        {"workers": {"isolation": "privileged"}},
        "must be one of 'userNamespaces', 'unconfined'",
    ),
    "size of Kubernetes for a store": ({"store": {"disk": {"size": "80Gi"}}}, "/store/disk/size"),
    "size of a store for Kubernetes": ({"server": {"volume": {"size": "100GiB"}}}, "/server/volume/size"),
    "profile that forbids mounts": (
        {"workers": {"appArmorProfile": "RuntimeDefault"}},
        "forbids the mounts of sandboxes",
    ),
    "profile that is ignored": (
        {"workers": {"isolation": "unconfined", "appArmorProfile": "site"}},
        "unconfined runs without profiles",
    ),
    "no drain": ({"workers": {"drainSeconds": 0}}, "/workers/drainSeconds"),
    "name that is none": ({"pools": [pool(name="Big Pool")]}, "/pools/0/name"),
    "pool without slots": ({"pools": [pool(jobs=0)]}, "/pools/0/jobs"),
    "unknown permission": ({"access": {"mode": "rules", "anonymous": ["write"]}}, "/access/anonymous/0"),
    "unknown key of [execution]": ({"server": {"execution": {"jobs": 4}}}, "'jobs' not allowed"),
    "tokens without an issuer": (
        {"access": {"mode": "rules", "tokens": {"keys": "x"}}},
        "/access/tokens",
    ),
    "anonymous to the world": (
        {"server": {"service": {"type": "LoadBalancer"}}},
        "makes the server reachable from outside the cluster",
    ),
    "rules that are ignored": (
        {"access": {"anonymous": ["read"]}},
        "access.mode is anonymous, which ignores",
    ),
    "nobody may do anything": ({"access": {"mode": "rules"}}, "nobody could do anything"),
    "passwords in the clear": (
        {"access": {"mode": "rules", "anonymous": ["all"], "passwordsSecretName": "p"}},
        "sent under TLS only: set tls.secretName",
    ),
    "authority without a certificate": ({"tls": {"clientCa": True}}, "tls.clientCa needs tls.secretName"),
    "workers that are refused": (
        {"access": {"mode": "rules", "anonymous": ["read"]}},
        "the workers have no credentials",
    ),
    "credentials without a Secret": (
        {"workers": {"credentials": {"token": True}}},
        "set workers.credentials.secretName",
    ),
    "token in the clear": (
        {"workers": {"credentials": {"secretName": "s", "token": True}}},
        "the workers' credentials are sent under TLS only",
    ),
    "workers without a server": ({"server": {"enabled": False}}, "set workers.serverEndpoint"),
    "two servers": (
        {"workers": {"serverEndpoint": "grpc://build.example:8980"}},
        "the workers of this release use its own server",
    ),
    "store without an address": ({"store": {"kind": "grpc"}}, "set store.grpc.endpoint"),
    "store's files without a Secret": (
        {"store": {"kind": "grpc", "grpc": {"endpoint": "grpcs://s:1", "ca": True}}},
        "set store.grpc.secretName",
    ),
    "store's token in the clear": (
        {"store": {"kind": "grpc", "grpc": {"endpoint": "grpc://s:1", "token": True, "secretName": "s"}}},
        "store.grpc.token is sent under TLS only",
    ),
    "bucket without a name": ({"store": {"kind": "s3"}}, "set store.s3.bucket"),
    "no store": ({"store": {"kind": "custom"}}, "write the tables [blobs] and [actions]"),
    "claim without a name": (
        {"server": {"volume": {"type": "existingClaim"}}},
        "set server.volume.claimName",
    ),
    "one name for two pools": ({"pools": [pool(), pool()]}, "two pools have the name default"),
    "minimum above the maximum": (
        {"pools": [{**UNSIZED, "autoscaling": {"min": 3, "max": 2}}]},
        "autoscaling.min is greater than max",
    ),
    "pool of no size": ({"pools": [UNSIZED]}, "needs replicas or autoscaling"),
    "two pools that scale": (
        {"pools": [{**UNSIZED, "name": name, "autoscaling": {"min": 1, "max": 2}} for name in ("a", "b")]},
        "the metric is one for all pools",
    ),
    "no worker without KEDA": (
        {"pools": [{**UNSIZED, "autoscaling": {"min": 0, "max": 2}}]},
        "need autoscaling.by keda",
    ),
    "KEDA without a server": (
        {
            "server": {"enabled": False},
            "workers": {"serverEndpoint": "grpc://build.example:8980"},
            "pools": [{**UNSIZED, "autoscaling": {"min": 0, "max": 2}}],
            "autoscaling": {"by": "keda"},
        },
        "the server of this release answers KEDA",
    ),
    "replicas and autoscaling": (
        {"pools": [pool(autoscaling={"min": 1, "max": 2})]},
        "has replicas and autoscaling",
    ),
    "several servers without PostgreSQL": (
        {"server": {"replicas": 2}, "store": {"kind": "shards"}},
        "server.replicas is 2, and each server would have a queue of its own",
    ),
    "several servers with a store each": (
        {"server": {"replicas": 2}, "postgresql": {"url": "postgresql://db/bitzel"}},
        "each server would have blobs and results of its own",
    ),
    "several servers with a store of one's own each": (
        {
            "server": {"replicas": 2},
            "postgresql": {"url": "postgresql://db/bitzel"},
            "store": {
                "kind": "custom",
                "custom": "[blobs.grpc]\nendpoint = 'grpc://a:1'\n[actions.memory]\n",
            },
        },
        "is a disk or memory of each server",
    ),
    "several servers with one claim": (
        {
            "server": {"replicas": 2, "volume": {"type": "existingClaim", "claimName": "a"}},
            "postgresql": {"url": "postgresql://db/bitzel"},
            "store": {"kind": "shards"},
        },
        "is one claim for all of them",
    ),
    "no server": ({"server": {"replicas": 0}}, "/server/replicas"),
    "password in the clear values": (
        {"postgresql": {"url": "postgresql://bitzel:secret@db/bitzel"}},
        "/postgresql/url",
    ),
    "password for no database": (
        {"postgresql": {"passwordSecretName": "p"}},
        "are for the database of postgresql.url",
    ),
    "authority of no servers": (
        {"tls": {"secretName": "s", "serversCa": True}},
        "tls.serversCa is for servers that share a journal",
    ),
    "controller of nothing": (
        {"controller": {"enabled": True}, "pools": []},
        "controller.enabled needs the server and the pools",
    ),
    "controller that is refused": (
        {**SECURE, "controller": {"enabled": True}},
        "the controller has no credentials",
    ),
    "controller's token in the clear": (
        {"controller": {"enabled": True, "credentials": {"secretName": "s", "token": True}}},
        "the controller's credentials are sent under TLS only",
    ),
    "controller's files without a Secret": (
        {"controller": {"enabled": True, "credentials": {"ca": True}}},
        "set controller.credentials.secretName",
    ),
    "worker's certificate that is not asked for": (
        {**SECURE, "tls": {"secretName": "server-tls"}},
        "set tls.clientCa",
    ),
    "worker's token without keys": (
        {**SECURE, "workers": {"credentials": {"secretName": "s", "token": True}}},
        "set access.tokens",
    ),
    "one port for two": (
        {"server": {"httpCache": {"enabled": True, "port": 8980}}},
        "are both 8980",
    ),
    "store larger than its volume": (
        {"server": {"volume": {"size": "79Gi"}}},
        "store.disk.size is 80GiB, and server.volume.size 79Gi",
    ),
    "shard larger than its volume": (
        {"store": {"kind": "shards", "shards": {"size": "1TiB"}}},
        "store.shards.size is 1TiB, and store.shards.volume.size 100Gi",
    ),
    "copy of a bucket larger than its volume": (
        {"store": {"kind": "s3", "s3": {"bucket": "b", "region": "x", "cacheSize": "200GiB"}}},
        "store.s3.cacheSize is 200GiB",
    ),
    "cache larger than its claim": (
        {"pools": [pool(cache={"claim": {"size": "10Gi"}})]},
        "cache.size (20G if it is left out) is 20GiB, and cache.claim.size 10Gi",
    ),
    "cache larger than its limit": (
        {"pools": [pool(cache={"size": "9G", "emptyDir": {"sizeLimit": "8Gi"}})]},
        "is 9GiB, and cache.emptyDir.sizeLimit 8Gi",
    ),
    "scratch space larger than memory": (
        {"pools": [pool(scratchMemory="32Gi")]},
        "scratchMemory is 32Gi, and resources.limits.memory 16Gi",
    ),
    "request above the limit": (
        {"pools": [pool(resources={"requests": {"cpu": 2}, "limits": {"cpu": "1500m"}})]},
        "resources.requests.cpu is 2, more than the limit of 1500m",
    ),
    "name of a profile with a space": ({"workers": {"appArmorProfile": "a b"}}, "/workers/appArmorProfile"),
    "sysctl that forbids workers": (
        {"nodeProfiles": {"sysctls": {"kernel.unprivileged_userns_clone": 0}}},
        "/nodeProfiles/sysctls",
    ),
    "certificates by nobody": ({**SECURE, "certManager": {"enabled": True}}, "set certManager.issuer.name"),
    "certificates for nothing": (
        {"certManager": {"enabled": True, "issuer": {"name": "farm"}}},
        "set one of them",
    ),
    "one Secret for two certificates": (
        {
            **SECURE,
            "workers": {"credentials": {"secretName": "server-tls", "certificate": True}},
            "certManager": {"enabled": True, "issuer": {"name": "farm"}},
        },
        "the Secret server-tls would belong to two Certificates",
    ),
    "two caches": (
        {"pools": [pool(cache={"emptyDir": {}, "hostPath": {"path": "/a"}})]},
        "cache has emptyDir and hostPath",
    ),
}
