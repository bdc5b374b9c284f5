"""The definitions that ship, loaded once."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from brew_cluster.definition.config import ClusterConfig
from brew_cluster.definition.load import load_definition
from brew_cluster.definition.programs import Programs, load_programs

CRDS = Path(__file__).parents[4] / "shared" / "kuberay-crds"
SEPARATE = [
    "topology=separate",
    "queues={teams: {feed: {gpus: 256, borrow_gpus: 256, cpus: 640, memory_gib: 4096}, jobs: {gpus: 128}}}",
    "job_gateway=null",
]
Loaded = tuple[ClusterConfig, Programs]


@cache
def load(*arguments: str) -> Loaded:
    """Load a definition with overrides, and its programs, which are loaded again only if they are overridden."""
    config = load_definition(arguments)
    name, *overrides = arguments
    if overrides and not any(override.startswith(("training", "service", "job_gateway")) for override in overrides):
        return config, replace(load(name)[1], config=config)
    return config, load_programs(config)


@pytest.fixture(scope="session")
def h100() -> Loaded:
    return load("h100_512")


@pytest.fixture(scope="session")
def separate() -> Loaded:
    return load("h100_512", *SEPARATE)


@pytest.fixture(scope="session")
def laptop() -> Loaded:
    return load("laptop")


def find(documents: Sequence[dict[str, Any]], kind: str, name: str | None = None) -> dict[str, Any]:
    """Return the only document of a kind, or of a kind and a name."""
    [found] = [
        document for document in documents
        if document["kind"] == kind and (name is None or document["metadata"]["name"] == name)
    ]  # fmt: skip
    return found
