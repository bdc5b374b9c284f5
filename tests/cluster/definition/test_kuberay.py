"""What is rendered for KubeRay: the fields that production needs, in both topologies, and none that the CRDs refuse."""

import copy
import shlex
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import yaml

from brew_cluster.definition.kuberay import operator_values, ray_cluster, ray_job, ray_service
from brew_cluster.definition.render import check_definition, manifests
from brew_cluster.definition.schema import COMPACT, crd_schemas, schema_errors
from brew_platform.config import load_config
from brew_serve.config import AppConfig

from .conftest import CRDS, Loaded, find, load

needs_crds = pytest.mark.skipif(not CRDS.is_dir(), reason="KubeRay's CRDs are not beside this checkout")


def documents(loaded: Loaded) -> list[dict[str, Any]]:
    config, programs = loaded
    found = [document for file in manifests(config, programs).values() for document in file]
    return [*found, ray_job(config, programs)]


def pods(spec: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the pod of each group of a Ray cluster."""
    yield "head", spec["headGroupSpec"]["template"]["spec"]
    for group in spec["workerGroupSpecs"]:
        yield group["groupName"], group["template"]["spec"]


def test_the_definitions_that_ship_pass_all_checks(h100: Loaded, separate: Loaded, laptop: Loaded) -> None:
    for loaded in (h100, separate, laptop):
        assert check_definition(*loaded) == []


@cache
def full_schemas() -> dict[str, dict[str, Any]]:
    return crd_schemas(CRDS)


@needs_crds
def test_the_definitions_that_ship_match_the_crds_of_kuberay(h100: Loaded, separate: Loaded, laptop: Loaded) -> None:
    for loaded in (h100, separate, laptop):
        assert check_definition(*loaded, full_schemas()) == []


@needs_crds
def test_the_compact_schema_has_only_fields_of_the_crds() -> None:
    def missing(compact: dict[str, Any], full: dict[str, Any], path: str) -> Iterator[str]:
        for name, below in compact.get("properties", {}).items():
            known = full.get("properties", {})
            if name not in known and full.get("properties"):
                yield f"{path}.{name}"
            elif name in known:
                yield from missing(below, known[name], f"{path}.{name}")
        if "items" in compact and "items" in full:
            yield from missing(compact["items"], full["items"], f"{path}[]")

    for kind in ("RayCluster", "RayJob", "RayService"):
        assert list(missing(COMPACT[kind], full_schemas()[kind], kind)) == []
    pod = full_schemas()["RayCluster"]["properties"]["spec"]["properties"]["headGroupSpec"]["properties"]["template"]
    deployment = COMPACT["Deployment"]["properties"]["spec"]["properties"]["template"]
    assert list(missing(deployment, pod, "Deployment")) == []


MISTAKES = [  # key path into a RayCluster, and a wrong value; None deletes the key
    (("spec", "rayVersoin"), "2.60.0"),
    (("spec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
    (("spec", "workerGroupSpecs", 1, "maxReplica"), 5),
    (("spec", "workerGroupSpecs", 1, "groupName"), None),
    (("spec", "workerGroupSpecs", 1, "minReplicas"), "2"),
    (("spec", "workerGroupSpecs", 1, "template", "spec", "containers"), None),
    (("spec", "workerGroupSpecs", 1, "template", "spec", "nodeSelectors"), {"a": "b"}),
    (("spec", "authOptions", "mode"), "tokens"),
    (("spec", "autoscalerOptions", "version"), "v3"),
    (("spec", "gcsFaultToleranceOptions", "redisAdress"), "redis:6379"),
]


@pytest.mark.parametrize(("path", "value"), MISTAKES, ids=[str(path[-1]) for path, _ in MISTAKES])
@pytest.mark.parametrize("schema", ["compact", pytest.param("crds", marks=needs_crds)])
def test_a_mistake_in_a_manifest_is_found(h100: Loaded, schema: str, path: tuple[Any, ...], value: Any) -> None:
    document = copy.deepcopy(ray_cluster(*h100))
    *parents, key = path
    node: Any = document
    for parent in parents:
        node = node[parent]
    if value is None:
        del node[key]
    else:
        node[key] = value
    schemas = COMPACT if schema == "compact" else full_schemas()
    [error, *_] = schema_errors(document, schemas["RayCluster"])
    assert str(key) in error


def test_every_group_has_all_mounts_caches_and_secrets(h100: Loaded, separate: Loaded, laptop: Loaded) -> None:
    for config, programs in (h100, separate, laptop):
        expected = {"/dev/shm", *(mount.path for mount in config.mounts.values()), *config.secrets.values()}
        expected.add(config.cache.path if config.cache else "/dev/shm")
        spec = ray_cluster(config, programs)["spec"]
        assert {name for name, _ in pods(spec)} == set(config.groups)
        for name, pod in pods(spec):
            [container] = pod["containers"]
            assert {mount["mountPath"] for mount in container["volumeMounts"]} == expected, name
            assert {mount["name"] for mount in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}


def test_pods_have_the_least_privileges(h100: Loaded) -> None:
    for name, pod in pods(ray_cluster(*h100)["spec"]):
        [container] = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is (name == "head")
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        added = container["securityContext"]["capabilities"].get("add", [])
        assert added == (["IPC_LOCK"] if name == "train" else [])
        assert container["resources"]["requests"] == container["resources"]["limits"]


def test_the_head_runs_no_task_and_survives_on_redis(h100: Loaded, laptop: Loaded) -> None:
    spec = ray_cluster(*h100)["spec"]
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    options = spec["gcsFaultToleranceOptions"]
    assert options["redisAddress"].startswith("redis://")
    assert options["redisPassword"]["valueFrom"]["secretKeyRef"] == {"name": "brew360-redis", "key": "password"}
    for _, pod in pods(spec):
        names = [variable["name"] for variable in pod["containers"][0]["env"]]
        assert "RAY_gcs_rpc_server_reconnect_timeout_s" in names
        assert len(names) == len(set(names))
    assert "gcsFaultToleranceOptions" not in ray_cluster(*laptop)["spec"]


def test_groups_carry_labels_limits_and_idle_times(h100: Loaded) -> None:
    config, programs = h100
    spec = ray_cluster(config, programs)["spec"]
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"]["version"] == "v2"
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["tlsOptions"] == {"enabled": True}
    [train] = [group for group in spec["workerGroupSpecs"] if group["groupName"] == "train"]
    assert (train["minReplicas"], train["maxReplicas"], train["idleTimeoutSeconds"]) == (32, 64, 1800)
    assert train["labels"] == {"brew360/group": "train", "brew360/role": "train"}
    container = train["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert container["resources"]["limits"]["rdma/hca_shared_devices_a"] == "1"
    variables = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert variables["NCCL_IB_HCA"] == "mlx5"
    assert variables["NCCL_SOCKET_IFNAME"] == variables["GLOO_SOCKET_IFNAME"] == "eth0"


def test_serving_preempts_training_and_never_the_reverse(h100: Loaded) -> None:
    config, programs = h100
    classes = {
        item["metadata"]["name"]: item for item in documents((config, programs)) if item["kind"] == "PriorityClass"
    }
    assert {pod["priorityClassName"] for _, pod in pods(ray_cluster(config, programs)["spec"])} == set(classes)
    assert classes["brew360-online"]["value"] > classes["brew360-train"]["value"]
    assert classes["brew360-online"]["preemptionPolicy"] == "PreemptLowerPriority"
    assert classes["brew360-train"]["preemptionPolicy"] == "Never"


def test_only_named_namespaces_reach_the_cluster(h100: Loaded) -> None:
    found = documents(h100)
    head = find(found, "NetworkPolicy", "brew360-head")["spec"]
    peers = [
        (
            peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"],
            {port["port"] for port in rule["ports"]},
        )
        for rule in head["ingress"]
        for peer in rule["from"]
        if "namespaceSelector" in peer
    ]
    assert peers == [("kuberay-system", {8265, 52365})]
    assert head["egress"] == [
        {"to": [{"ipBlock": {"cidr": "10.0.0.1/32"}}], "ports": [{"port": 443, "protocol": "TCP"}]}
    ]
    everyone = find(found, "NetworkPolicy", "brew360-cluster")["spec"]
    assert everyone["policyTypes"] == ["Ingress", "Egress"]
    assert {port["port"] for rule in everyone["egress"] for port in rule.get("ports", [])} == {53, 443, 988, 2049, 6379}
    clients = find(found, "NetworkPolicy", "brew360-clients")["spec"]
    assert clients["podSelector"]["matchLabels"]["brew360/role"] == "online"
    assert [port["port"] for port in clients["ingress"][0]["ports"]] == [8000]
    assert find(found, "NetworkPolicy", "brew360-metrics")


def test_submitters_can_neither_read_secrets_nor_open_a_shell(h100: Loaded) -> None:
    role = find(documents(h100), "Role")
    resources = {resource for rule in role["rules"] for resource in rule["resources"]}
    assert not resources & {"secrets", "pods/exec", "*", "serviceaccounts", "roles"}


def test_host_folders_and_rdma_need_a_privileged_namespace(h100: Loaded, laptop: Loaded) -> None:
    levels = [
        find(documents(loaded), "Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
        for loaded in (h100, laptop)
    ]
    assert levels == ["privileged", "baseline"]


@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")
def test_the_serve_config_is_taken_by_serve_and_by_the_service(h100: Loaded, laptop: Loaded) -> None:
    from ray.serve.schema import ServeDeploySchema

    for _, programs in (h100, laptop):
        config = programs.serve_config()
        schema = ServeDeploySchema.model_validate(config)
        assert schema.http_options.host == "0.0.0.0"
        [application] = config["applications"]
        settings = load_config(AppConfig, yaml.safe_load(yaml.safe_dump(application["args"])))
        assert settings.node_labels == {"brew360/role": "online"}
        service = programs.service
        assert service is not None
        for name in ("registry_url", "engine", "middleware", "max_replicas", "cache_folder", "gpus", "admission"):
            assert getattr(settings, name) == getattr(service, name), name
    assert settings.nearline is None
    nearline = load_config(AppConfig, h100[1].serve_config()["applications"][0]["args"]).nearline
    assert nearline is not None
    assert (nearline.gpus, nearline.node_labels) == (4, {"brew360/role": "nearline"})


def test_a_job_of_the_shared_cluster_selects_it(h100: Loaded) -> None:
    job = ray_job(*h100)
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": "brew360"}
    # KubeRay refuses these on a cluster that exists, and Kueue does not manage such a job
    assert not {"rayClusterSpec", "suspend", "ttlSecondsAfterFinished", "backoffLimit"} & set(job["spec"])
    words = shlex.split(job["spec"]["entrypoint"])
    assert words[:3] == ["brew360", "train", "mixtral_8x22b"]
    assert words[-1] == "train.node_labels={brew360/role: train}"


def test_a_job_of_its_own_cluster_keeps_the_rules_of_kueue(separate: Loaded) -> None:
    config, programs = separate
    job = ray_job(config, programs)
    spec = job["spec"]
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "feed"
    assert spec["suspend"] is spec["shutdownAfterJobFinishes"] is True
    assert spec["rayClusterSpec"]["enableInTreeAutoscaling"] is False
    groups = {group["groupName"]: group for group in spec["rayClusterSpec"]["workerGroupSpecs"]}
    assert set(groups) == {"data", "train"}
    assert groups["train"]["replicas"] * 8 == 256
    found = documents(separate)
    queue = find(found, "ClusterQueue", "brew360-feed")["spec"]
    [resources] = queue["resourceGroups"]
    requested = {
        name for _, pod in pods(spec["rayClusterSpec"]) for name in pod["containers"][0]["resources"]["requests"]
    }
    assert requested <= set(resources["coveredResources"])
    for flavor in resources["flavors"]:  # Kueue wants all resources, in the same order
        assert [entry["name"] for entry in flavor["resources"]] == resources["coveredResources"]
        assert find(found, "ResourceFlavor", flavor["name"])
    quotas = {entry["name"]: entry for flavor in resources["flavors"] if flavor["name"] == "brew360-train"
              for entry in flavor["resources"]}  # fmt: skip
    assert (quotas["nvidia.com/gpu"]["nominalQuota"], quotas["nvidia.com/gpu"]["borrowingLimit"]) == ("256", "256")
    assert find(found, "LocalQueue", "jobs")["spec"]["clusterQueue"] == "brew360-jobs"


def test_the_service_of_its_own_cluster_has_the_serving_groups(separate: Loaded) -> None:
    config, programs = separate
    spec = ray_service(config, programs)["spec"]
    groups = [group["groupName"] for group in spec["rayClusterConfig"]["workerGroupSpecs"]]
    assert groups == ["nearline", "online"]
    assert yaml.safe_load(spec["serveConfigV2"]) == programs.serve_config()
    assert spec["upgradeStrategy"] == {"type": "NewCluster"}
    tight = load("h100_512", "topology=separate", "groups.online.min_nodes=5")
    assert ray_service(*tight)["spec"]["upgradeStrategy"] == {"type": "None"}


def test_encryption_is_behind_a_gate_of_the_operator(h100: Loaded, laptop: Loaded) -> None:
    gates = [
        {gate["name"]: gate["enabled"] for gate in operator_values(config)["featureGates"]}
        for config, _ in (h100, laptop)
    ]
    assert [gate["RayClusterMTLS"] for gate in gates] == [True, False]
