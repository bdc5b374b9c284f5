"""Schemas of the rendered documents: a compact one of our own, and those of KubeRay's CRDs and of `ray up`.

The compact schema is closed and covers the fields that the renderings use; a test holds it, with its pods, against the
CRDs of KubeRay 1.7. Kubernetes ignores unknown fields of a custom resource, so that a misspelled field would have no
effect.
"""

import copy
import json
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from brew_platform.errors import UserError

__all__ = ["COMPACT", "crd_schemas", "ray_up_schema", "schema_errors"]

_TEXT = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
_FLAG = {"type": "boolean"}
_TEXTS = {"type": "object", "additionalProperties": _TEXT}
_QUANTITY = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|[kMGTPE]i?)?$"}
_QUANTITIES = {"type": "object", "additionalProperties": _QUANTITY}


def _list(items: Mapping[str, Any], *, least: int = 0) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": least}


def _object(required: str = "", **properties: Any) -> dict[str, Any]:
    """Return the schema of an object with no other properties; `required` are their names."""
    return {
        "type": "object", "properties": properties, "required": required.split(), "additionalProperties": False,
    }  # fmt: skip


_METADATA = _object("name", name=_TEXT, namespace=_TEXT, labels=_TEXTS, annotations=_TEXTS)
_SECRET_KEY = _object("secretKeyRef", secretKeyRef=_object("name key", name=_TEXT, key=_TEXT))
_CAPABILITIES = _object(add=_list(_TEXT), drop=_list(_TEXT))
_PROBE = _object(
    "httpGet",
    httpGet=_object("path port", path=_TEXT, port=_COUNT, scheme={"enum": ["HTTP", "HTTPS"]}),
    periodSeconds=_COUNT,
    timeoutSeconds=_COUNT,
    failureThreshold=_COUNT,
)
_CONTAINER = _object(
    "name image resources",
    name=_TEXT,
    image=_TEXT,
    resources=_object("requests limits", requests=_QUANTITIES, limits=_QUANTITIES),
    command=_list(_TEXT),
    args=_list(_TEXT),
    securityContext=_object(allowPrivilegeEscalation=_FLAG, readOnlyRootFilesystem=_FLAG, capabilities=_CAPABILITIES),
    env=_list(_object("name", name=_TEXT, value=_TEXT, valueFrom=_SECRET_KEY)),
    ports=_list(_object("name containerPort", name=_TEXT, containerPort=_COUNT)),
    volumeMounts=_list(_object("name mountPath", name=_TEXT, mountPath=_TEXT, readOnly=_FLAG)),
    startupProbe=_PROBE,
    readinessProbe=_PROBE,
    livenessProbe=_PROBE,
)
_VOLUME = _object(
    "name",
    name=_TEXT,
    emptyDir=_object(medium=_TEXT, sizeLimit=_QUANTITY),
    hostPath=_object("path", path=_TEXT, type=_TEXT),
    persistentVolumeClaim=_object("claimName", claimName=_TEXT, readOnly=_FLAG),
    secret=_object(
        "secretName", secretName=_TEXT, defaultMode=_COUNT, items=_list(_object("key path", key=_TEXT, path=_TEXT))
    ),
)
_SELECTOR = _object("matchLabels", matchLabels=_TEXTS)
_POD = _object(
    "containers",
    serviceAccountName=_TEXT,
    automountServiceAccountToken=_FLAG,
    enableServiceLinks=_FLAG,
    priorityClassName=_TEXT,
    terminationGracePeriodSeconds=_COUNT,
    securityContext=_object(
        runAsNonRoot=_FLAG,
        runAsUser=_COUNT,
        runAsGroup=_COUNT,
        fsGroup=_COUNT,
        fsGroupChangePolicy=_TEXT,
        seccompProfile=_object("type", type=_TEXT),
    ),
    containers=_list(_CONTAINER, least=1),
    volumes=_list(_VOLUME),
    imagePullSecrets=_list(_object("name", name=_TEXT)),
    nodeSelector=_TEXTS,
    topologySpreadConstraints=_list(
        _object(
            "maxSkew topologyKey whenUnsatisfiable labelSelector",
            maxSkew=_COUNT,
            topologyKey=_TEXT,
            whenUnsatisfiable={"enum": ["DoNotSchedule", "ScheduleAnyway"]},
            labelSelector=_SELECTOR,
        )
    ),
    tolerations=_list(_object("key operator", key=_TEXT, operator=_TEXT, effect=_TEXT)),
)
_TEMPLATE = _object("spec", metadata=_object(labels=_TEXTS, annotations=_TEXTS), spec=_POD)
_CLUSTER = _object(
    "rayVersion headGroupSpec workerGroupSpecs",
    rayVersion=_TEXT,
    enableInTreeAutoscaling=_FLAG,
    authOptions=_object("mode", mode={"enum": ["token", "disabled"]}),
    tlsOptions=_object("enabled", enabled=_FLAG),
    autoscalerOptions=_object(
        version={"enum": ["v1", "v2"]},
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
        idleTimeoutSeconds=_COUNT,
        resources=_object("requests limits", requests=_QUANTITIES, limits=_QUANTITIES),
        securityContext=_object(allowPrivilegeEscalation=_FLAG, capabilities=_CAPABILITIES),
    ),
    gcsFaultToleranceOptions=_object(
        "redisAddress", redisAddress=_TEXT, redisPassword=_object("valueFrom", valueFrom=_SECRET_KEY)
    ),
    headGroupSpec=_object("template", serviceType=_TEXT, labels=_TEXTS, rayStartParams=_TEXTS, template=_TEMPLATE),
    workerGroupSpecs=_list(
        _object(
            "groupName replicas minReplicas maxReplicas template",
            groupName=_TEXT,
            replicas=_COUNT,
            minReplicas=_COUNT,
            maxReplicas=_COUNT,
            idleTimeoutSeconds=_COUNT,
            labels=_TEXTS,
            rayStartParams=_TEXTS,
            template=_TEMPLATE,
        )
    ),
)


def _kind(kind: str, spec: Mapping[str, Any], *, api: str = "ray.io/v1") -> dict[str, Any]:
    return _object(
        "apiVersion kind metadata spec",
        apiVersion={"const": api},
        kind={"const": kind},
        metadata=_METADATA,
        spec=spec,
    )


# By kind
COMPACT: dict[str, dict[str, Any]] = {
    "RayCluster": _kind("RayCluster", _CLUSTER),
    "RayJob": _kind(
        "RayJob",
        _object(
            "entrypoint",
            entrypoint=_TEXT,
            submissionMode={"enum": ["K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"]},
            backoffLimit=_COUNT,
            clusterSelector=_TEXTS,
            shutdownAfterJobFinishes=_FLAG,
            ttlSecondsAfterFinished=_COUNT,
            suspend=_FLAG,
            rayClusterSpec=_CLUSTER,
        ),
    ),
    "RayService": _kind(
        "RayService",
        _object(
            "rayClusterConfig",
            excludeHeadPodFromServeSvc=_FLAG,
            rayClusterDeletionDelaySeconds=_COUNT,
            upgradeStrategy=_object("type", type={"enum": ["NewCluster", "None"]}),
            serveConfigV2=_TEXT,
            rayClusterConfig=_CLUSTER,
        ),
    ),
    "Deployment": _kind(
        "Deployment",
        _object(
            "selector template",
            replicas=_COUNT,
            selector=_SELECTOR,
            strategy=_object("type", type=_TEXT, rollingUpdate=_object(maxUnavailable=_COUNT, maxSurge=_COUNT)),
            template=_TEMPLATE,
        ),
        api="apps/v1",
    ),
    "Service": _kind(
        "Service",
        _object(
            "selector ports",
            selector=_TEXTS,
            ports=_list(_object("name port targetPort", name=_TEXT, port=_COUNT, targetPort=_COUNT), least=1),
        ),
        api="v1",
    ),
    "PodDisruptionBudget": _kind(
        "PodDisruptionBudget",
        _object("selector", maxUnavailable=_COUNT, selector=_SELECTOR),
        api="policy/v1",
    ),
}


def schema_errors(document: Mapping[str, Any], schema: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each place where a document does not match a schema."""
    found = jsonschema.Draft202012Validator(schema).iter_errors(document)
    return [f"{'.'.join(map(str, error.absolute_path)) or 'the document'}: {error.message}." for error in found]


@cache
def ray_up_schema() -> dict[str, Any]:
    """Return the schema of `ray up` from the installed Ray, which is not imported."""
    spec = find_spec("ray")
    assert spec is not None and spec.origin is not None  # noqa: PT018  a requirement of the package
    return json.loads((Path(spec.origin).parent / "autoscaler" / "ray-schema.json").read_text())


def crd_schemas(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the schemas of KubeRay's custom resource definitions in a folder, by kind, with all objects closed.

    Raises:
        UserError: The folder has no definitions.
    """
    found = {}
    for path in sorted(folder.glob("*.y*ml")):
        definition = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
        if definition.get("kind") != "CustomResourceDefinition":
            continue
        spec = definition["spec"]
        [version] = [version for version in spec["versions"] if version["name"] == "v1"]
        found[spec["names"]["kind"]] = _closed(version["schema"]["openAPIV3Schema"])
    if not found:
        raise UserError(f"{folder} has no custom resource definitions. Pass the folder with KubeRay's CRDs.")
    return found


def _closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return an OpenAPI schema of Kubernetes as a JSON schema that refuses unknown fields.

    A field may be absent if it has a default, and quantities may be numbers or texts, as in Kubernetes.
    """
    closed = copy.copy(dict(schema))
    properties = {name: _closed(below) for name, below in closed.get("properties", {}).items()}
    if properties:
        closed["properties"] = properties
        required = [name for name in closed.get("required", []) if "default" not in properties.get(name, {})]
        closed["required"] = required
        if not closed.get("x-kubernetes-preserve-unknown-fields") and "additionalProperties" not in closed:
            closed["additionalProperties"] = False
    for key in ("items", "additionalProperties"):
        if isinstance(closed.get(key), Mapping):
            closed[key] = _closed(closed[key])
    if closed.get("x-kubernetes-int-or-string"):
        closed.pop("type", None)
        closed["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if closed.get("nullable") and isinstance(closed.get("type"), str):
        closed["type"] = [closed["type"], "null"]
    return closed
