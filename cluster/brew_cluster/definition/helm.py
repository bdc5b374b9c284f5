"""A Helm chart of the rendered manifests: images and the sizes of groups become values.

The definition stays the source: the chart is rendered from it, and its default values give the same manifests.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from brew_cluster.definition.config import ClusterConfig
from brew_cluster.definition.manifest_text import manifest_text

__all__ = ["chart_file", "chart_values", "template_text", "with_placeholders"]

_SIZES = {"replicas": "minNodes", "minReplicas": "minNodes", "maxReplicas": "maxNodes"}
_BARE = re.compile(r"""['"]?@@(.+?)@@['"]?""")
_CHART_VERSION = "0.1.0"


def chart_file(config: ClusterConfig) -> dict[str, Any]:
    """Return Chart.yaml."""
    return {
        "apiVersion": "v2",
        "name": config.name,
        "description": "Data, training and serving of brew360 on one Ray cluster",
        "type": "application",
        "version": _CHART_VERSION,
        "appVersion": config.ray_version,
    }


def chart_values(config: ClusterConfig) -> dict[str, Any]:
    """Return values.yaml."""
    values: dict[str, Any] = {
        "images": dict(config.images),
        "groups": {
            name: {"minNodes": group.min_nodes, "maxNodes": group.max_nodes}
            for name, group in config.groups.items()
            if group.role != "head"
        },
    }
    if config.job_gateway is not None:
        values["jobGateway"] = {"replicas": config.job_gateway.replicas}
    return values


def with_placeholders(config: ClusterConfig) -> ClusterConfig:
    """Return the definition with references to values in place of the images."""
    return replace(config, images={name: f"@@.Values.images.{name} | quote@@" for name in config.images})


def template_text(document: Mapping[str, Any]) -> str:
    """Return a manifest, rendered from `with_placeholders`, as a Helm template."""
    text = manifest_text(_with_sizes(document))
    if "{{" in text:
        raise ValueError("a manifest contains {{, which Helm would evaluate")
    return _BARE.sub(lambda match: f"{{{{ {match[1]} }}}}", text)


def _with_sizes(value: Any) -> Any:
    """Replace namespaces, the sizes of worker groups, and the number of gateways by references to values."""
    if isinstance(value, list):
        return [_with_sizes(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    replaced = {key: _with_sizes(below) for key, below in value.items()}
    if "namespace" in replaced and "name" in replaced:
        replaced["namespace"] = "@@.Release.Namespace@@"
    if replaced.get("kind") == "Deployment":
        replaced["spec"] |= {"replicas": "@@.Values.jobGateway.replicas@@"}
    if "groupName" in replaced:
        name = replaced["groupName"]
        # names of groups may contain -, which Helm's dotted paths cannot
        replaced |= {key: f'@@(index .Values.groups "{name}").{size}@@' for key, size in _SIZES.items()}
    return replaced
