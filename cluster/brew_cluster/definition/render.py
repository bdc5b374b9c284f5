"""Renders a cluster definition to files: for KubeRay, for Helm, for `ray up`, or for one machine."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from brew_cluster.definition.config import ClusterConfig
from brew_cluster.definition.helm import chart_file, chart_values, template_text, with_placeholders
from brew_cluster.definition.job_gateway import gateway_objects, gateway_unit
from brew_cluster.definition.kuberay import operator_values, ray_cluster, ray_job, ray_service
from brew_cluster.definition.local import local_file
from brew_cluster.definition.manifest_text import manifest_text
from brew_cluster.definition.policies import (
    access,
    disruption_budgets,
    namespace,
    network_policies,
    priority_classes,
    rank_service,
    volumes,
)
from brew_cluster.definition.programs import Programs
from brew_cluster.definition.queues import queue_objects
from brew_cluster.definition.ray_up import ray_up_file
from brew_cluster.definition.rules import broken_rules
from brew_cluster.definition.schema import COMPACT, ray_up_schema, schema_errors
from brew_platform.errors import ConfigError
from brew_platform.files import replace_atomically

__all__ = ["TARGETS", "check_definition", "manifests", "render", "write_files"]

TARGETS = ("kuberay", "helm", "ray-up", "local")
_KINDS = ("*.yaml", "*.service")  # of rendered files
_FOLDERS = ("manifests", "jobs", "templates")  # in the folder of a rendering
_HEADER = "# Rendered by `brew360 cluster render`. Change the definition, and render again.\n"


def manifests(config: ClusterConfig, programs: Programs) -> dict[str, list[dict[str, Any]]]:
    """Return the Kubernetes objects by the name of their file, in the order in which they are created."""
    cluster = ray_cluster if config.topology == "shared" else ray_service
    has_service = config.topology == "shared" and config.service is not None  # a RayService has its own
    gateway = programs.job_gateway
    files = {
        "00-namespace": [namespace(config)],
        "10-access": access(config),
        "20-volumes": volumes(config),
        "30-priorities": priority_classes(config),
        "40-network": network_policies(config, programs.port, None if gateway is None else gateway.port),
        "50-queues": queue_objects(config),
        "60-cluster": [cluster(config, programs)],
        "70-service": [rank_service(config, programs.port)] if has_service else [],
        "75-job-gateway": [] if gateway is None else gateway_objects(config, gateway),
        "80-disruption": disruption_budgets(config),
    }
    return {name: documents for name, documents in files.items() if documents}


def render(config: ClusterConfig, programs: Programs, target: str) -> dict[str, str]:
    """Render a definition.

    Args:
        config: The definition.
        programs: Its programs.
        target: One of `TARGETS`.

    Returns:
        The text of each file, by its path below the output folder.

    Raises:
        ConfigError: The definition lacks what the target needs.
    """
    if target == "kuberay":
        files = {
            f"manifests/{name}.yaml": _stream(documents) for name, documents in manifests(config, programs).items()
        }
        files |= {
            "kuberay-operator-values.yaml": manifest_text(operator_values(config)),
            "serve.yaml": manifest_text(programs.serve_config()),
        }
        if config.training is not None:
            files["jobs/train.yaml"] = manifest_text(ray_job(config, programs))
    elif target == "helm":
        files = {"Chart.yaml": manifest_text(chart_file(config)), "values.yaml": manifest_text(chart_values(config))}
        for name, documents in manifests(with_placeholders(config), programs).items():
            if name != "00-namespace":  # `helm install --create-namespace --namespace NAME`
                files[f"templates/{name}.yaml"] = "---\n".join(map(template_text, documents))
    elif target == "ray-up":
        document = ray_up_file(config)
        files = {"cluster.yaml": manifest_text(document), "serve.yaml": manifest_text(programs.serve_config())}
        if programs.job_gateway is not None:
            files[f"{config.name}-jobs.service"] = gateway_unit(config, programs.job_gateway)
    elif target == "local":
        files = {"local.yaml": manifest_text(local_file(config, cores=os.cpu_count() or 1))}
    else:
        raise ConfigError(f"{target} is not a target; give one of {', '.join(TARGETS)}.")
    return {path: _HEADER + text for path, text in files.items()}


def check_definition(
    config: ClusterConfig, programs: Programs, schemas: Mapping[str, Mapping[str, Any]] = COMPACT
) -> list[str]:
    """Return all problems of a definition: broken rules, and rendered documents that do not match their schemas.

    Args:
        config: The definition.
        programs: Its programs.
        schemas: Schemas of objects by kind.
    """
    problems = broken_rules(config, programs)
    if problems:  # a rendering of a broken definition repeats them
        return problems
    documents = [document for documents in manifests(config, programs).values() for document in documents]
    if config.training is not None:
        documents.append(ray_job(config, programs))
    for document in documents:
        if (schema := schemas.get(document["kind"])) is not None:
            problems += [f"{document['kind']} {error}" for error in schema_errors(document, schema)]
    if config.ray_up is not None:
        problems += [f"the file of `ray up`: {error}" for error in schema_errors(ray_up_file(config), ray_up_schema())]
    return problems


def write_files(files: Mapping[str, str], folder: Path) -> None:
    """Write rendered files, and delete those of an earlier rendering into this folder that have no successor.

    Raises:
        ConfigError: The folder has a file of that name that was not rendered.
    """
    folders = [folder, *(folder / name for name in _FOLDERS)]  # those below may be of another rendering
    rendered = [path for below in folders for kind in _KINDS for path in below.glob(kind) if _is_rendered(path)]
    for name in files:
        if (path := folder / name).exists() and path not in rendered:
            raise ConfigError(f"{path} exists and was not rendered by brew360; choose another folder with --out.")
    for path in rendered:
        if str(path.relative_to(folder)) not in files:
            path.unlink()
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        replace_atomically(folder / name, text)


def _is_rendered(path: Path) -> bool:
    return path.is_file() and path.read_bytes().startswith(_HEADER.encode())


def _stream(documents: Sequence[Mapping[str, Any]]) -> str:
    return "---\n".join(map(manifest_text, documents))
