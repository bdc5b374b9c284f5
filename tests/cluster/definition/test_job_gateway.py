"""The job gateway of a definition: its pods and who reaches them, and the unit of systemd."""

import shlex
from typing import Any

import pytest

from brew_cluster.definition.job_gateway import gateway_unit
from brew_cluster.definition.pods import CLUSTER_LABEL
from brew_cluster.definition.render import check_definition, manifests, render
from brew_cluster.definition.schema import COMPACT, schema_errors
from brew_cluster.gateway.config import load_gateway

from .conftest import Loaded, find, load


def documents(loaded: Loaded) -> list[dict[str, Any]]:
    return [document for file in manifests(*loaded).values() for document in file]


def pod_of(loaded: Loaded) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the pod of the gateways and its container."""
    pod = find(documents(loaded), "Deployment")["spec"]["template"]["spec"]
    [container] = pod["containers"]
    return pod, container


def test_the_command_has_the_settings_of_the_definition_and_those_that_follow_from_it(h100: Loaded) -> None:
    _, container = pod_of(h100)
    assert container["command"] == ["brew360"]
    assert container["args"][:2] == ["jobs", "serve"]
    settings = load_gateway(container["args"][2:])
    assert (settings.gpus, settings.cpus) == (64 * 8, 32 * 60 + 64 * 176)
    assert (settings.store, settings.folder) == ("s3://brew360-jobs/ledger", "/mnt/runs/teams")
    assert (settings.host, settings.ray_address) == ("0.0.0.0", "http://brew360-head-svc:8265")
    assert settings.log_path is None
    own = load("h100_512", "job_gateway.settings=[store=s3://b/jobs, gpus=256, name=night]")
    settings = load_gateway(pod_of(own)[1]["args"][2:])
    assert (settings.gpus, settings.name) == (256, "night")


def test_every_file_of_the_command_is_a_mounted_secret(h100: Loaded) -> None:
    pod, container = pod_of(h100)
    settings = load_gateway(container["args"][2:])
    variables = {variable["name"]: variable.get("value") for variable in container["env"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    files = {
        f"{mount['mountPath']}/{item['path']}": volumes[mount["name"]]["secret"]["secretName"]
        for mount in container["volumeMounts"]
        for item in volumes[mount["name"]].get("secret", {}).get("items", [])
    }
    assert files == {
        settings.keys_path: "brew360-keys",
        settings.signing_key_path: "brew360-signing",
        settings.tls_certificate: "brew360-jobs-tls",
        settings.tls_key: "brew360-jobs-tls",
        variables["RAY_AUTH_TOKEN_PATH"]: "brew360",
    }
    assert variables["RAY_AUTH_MODE"] == "token"
    assert all(mount["readOnly"] for mount in container["volumeMounts"] if mount["name"] != "tmp")
    assert not any("sign" in str(variable).lower() for variable in container["env"])  # other processes read variables


def test_the_pods_have_the_least_privileges_and_are_spread(h100: Loaded) -> None:
    pod, container = pod_of(h100)
    assert pod["automountServiceAccountToken"] is pod["enableServiceLinks"] is False
    assert find(documents(h100), "ServiceAccount", pod["serviceAccountName"])
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert (
        container["resources"]["requests"] == container["resources"]["limits"] == {"cpu": "1000m", "memory": "2048Mi"}
    )
    assert [rule["topologyKey"] for rule in pod["topologySpreadConstraints"]] == [
        "kubernetes.io/hostname", "topology.kubernetes.io/zone",
    ]  # fmt: skip
    assert pod["priorityClassName"] == "brew360-head"  # training does not evict it
    assert pod["nodeSelector"] == {"pool": "cpu"}


def test_probes_do_not_depend_on_the_cluster(h100: Loaded, laptop: Loaded) -> None:
    for loaded, scheme in ((h100, "HTTPS"), (laptop, "HTTP")):
        _, container = pod_of(loaded)
        [port] = [port["containerPort"] for port in container["ports"]]
        for name in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container[name]["httpGet"] == {"path": "/health", "port": port, "scheme": scheme}


def test_service_budget_and_policies_select_the_pods(h100: Loaded) -> None:
    found = documents(h100)
    deployment = find(found, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert CLUSTER_LABEL not in labels  # pods with it can open any connection to the cluster
    service = find(found, "Service", "brew360-jobs")["spec"]
    assert service["selector"] == labels
    assert service["ports"] == [{"name": "https", "port": 8360, "targetPort": 8360}]
    budget = find(found, "PodDisruptionBudget", "brew360-jobs")["spec"]
    assert budget == {"maxUnavailable": 1, "selector": {"matchLabels": labels}}
    policy = find(found, "NetworkPolicy", "brew360-jobs")["spec"]
    assert policy["podSelector"]["matchLabels"] == labels
    [callers] = policy["ingress"]
    names = [peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] for peer in callers["from"]]
    assert names == ["feed", "jobs", "search", "monitoring"]
    assert [port["port"] for port in callers["ports"]] == [8360]
    head = find(found, "NetworkPolicy", "brew360-head")["spec"]
    assert {"from": [{"podSelector": {"matchLabels": labels}}], "ports": [{"port": 8265, "protocol": "TCP"}]} in head[
        "ingress"
    ]
    to_head = policy["egress"][0]
    assert to_head["to"] == [{"podSelector": head["podSelector"]}]
    assert [port["port"] for port in to_head["ports"]] == [8265]
    ports = {port["port"] for rule in policy["egress"] for port in rule["ports"]}
    assert ports == {8265, 53, 443, 988, 2049, 6379}


def test_a_ledger_on_a_mount_is_mounted_alone(laptop: Loaded) -> None:
    pod, container = pod_of(laptop)
    claims = [volume["persistentVolumeClaim"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume]
    assert claims == [{"claimName": "brew360"}]
    assert "/mnt/brew360" in [mount["mountPath"] for mount in container["volumeMounts"]]


def test_a_definition_without_a_gateway_renders_none() -> None:
    loaded = load("h100_512", "job_gateway=null")
    assert check_definition(*loaded) == []
    assert "75-job-gateway" not in manifests(*loaded)
    assert not any("jobs" in document["metadata"]["name"] for document in documents(loaded))
    assert list(render(*loaded, "ray-up")) == ["cluster.yaml", "serve.yaml"]


MISTAKES = [
    (("Deployment", "spec", "replica"), 2),
    (("Deployment", "spec", "template", "spec", "containers", 0, "readOnlyRootFilesystem"), True),
    (("Deployment", "spec", "template", "spec", "containers", 0, "livenessProbe", "httpGet", "scheme"), "https"),
    (("Service", "spec", "selectors"), {}),
    (("PodDisruptionBudget", "spec", "maxUnavailable"), "1"),
]


@pytest.mark.parametrize(("path", "value"), MISTAKES, ids=[str(path[-1]) for path, _ in MISTAKES])
def test_a_mistake_in_an_object_is_found(path: tuple[Any, ...], value: Any) -> None:
    kind, *parents, key = path
    document = find(documents(load("h100_512")), kind, "brew360-jobs")
    assert schema_errors(document, COMPACT[kind]) == []
    node: Any = document
    for parent in parents:
        node = node[parent]
    node[key] = value
    [error, *_] = schema_errors(document, COMPACT[kind])
    assert str(key) in error


def test_a_unit_of_systemd_runs_it_on_the_head_of_ray_up(h100: Loaded) -> None:
    text = render(*h100, "ray-up")["brew360-jobs.service"]
    [start] = [line for line in text.replace("\\\n", "").splitlines() if line.startswith("ExecStart=")]
    words = shlex.split(start.removeprefix("ExecStart="))
    assert words[:3] == ["/usr/bin/docker", "run", "--rm"]
    assert {"--read-only", "--network", "--cpus"} <= set(words)
    image = words.index("registry.example.com/brew360:0.1.0-cpu")
    assert words[image + 1 : image + 4] == ["brew360", "jobs", "serve"]
    settings = load_gateway(words[image + 4 :])
    assert settings.ray_address == "http://127.0.0.1:8265"
    assert settings.host == "0.0.0.0"  # with TLS; else on loopback
    assert "Restart=always" in text
    laptop, programs = load("laptop", "job_gateway.settings=[store=/mnt/brew360/jobs, 'folder=/mnt/100%/$x']")
    assert programs.job_gateway is not None
    plain = gateway_unit(laptop, programs.job_gateway)
    assert "host=127.0.0.1" in plain
    assert "'folder=/mnt/100%%/$$x'" in plain
    assert "-v /mnt/brew360:/mnt/brew360 " in plain
