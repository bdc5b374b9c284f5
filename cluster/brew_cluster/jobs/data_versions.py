"""Publishes data folders as immutable, numbered versions with their lineage, for `brew360 data publish`.

A registry keeps data sets beside models, in the same way (`brew_platform.registry.registry`): content-addressed files,
and a manifest that is written last. Versions that share files, such as a data set and the same one with a further day,
store these once.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from brew_cluster.jobs.dataset_card import read_card
from brew_cluster.jobs.registry import DEFAULT_REGISTRY
from brew_data.data_folder import DataFolder
from brew_platform.errors import UserError
from brew_platform.registry.registry import Registry, Version
from brew_platform.storage.base import open_store

__all__ = ["open_datasets", "publish_data"]

SECTION, DEFAULT_NAME = "datasets", "brew360"
NOT_PUBLISHED = ("logs", "quarantine")  # the machine's, and rows that no prompt contains
_FIGURES = ("plan_hash", "n_documents", "n_tokens", "n_bins", "fill")  # of each folder of bins


def open_datasets(url: str | None, name: str | None, *, empty: bool = False) -> Registry:
    """Open the registry of a data set.

    Args:
        url: Its store; None: that of the models.
        name: Name of the data set; None: the default.
        empty: Whether it may be without a version, because one is about to be published.

    Raises:
        UserError: The registry has no version of this data set.
        StorageError: The store cannot be reached.
    """
    url, name = url or DEFAULT_REGISTRY, name or DEFAULT_NAME
    registry = Registry(open_store(url), name, section=SECTION)
    if not empty and not registry.versions():
        raise UserError(
            f"the registry {url} has no version of the data set {name}. Check --registry and --dataset, or publish one "
            f"first: brew360 data publish FOLDER --registry {url} --dataset {name}"
        )
    return registry


def publish_data(
    registry: Registry,
    folder: Path,
    *,
    author: str,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Version:
    """Publish a data folder as the next version, or return the version that has the same content.

    Args:
        registry: Receives the version.
        folder: A complete data folder; its logs and quarantined rows are not published.
        author: Who publishes.
        on_progress: Called with (bytes in the store, bytes of all files).

    Raises:
        UserError: The folder is not a complete data folder.
        DataError: A file of it was changed or damaged after the build.
        RegistryError, StorageError: As `Registry.publish`.
    """
    data = DataFolder.open(folder)
    info, bundle, card = data.info, data.bundle(), read_card(folder)
    digests = {version.signature.get("digest"): version for version in map(registry.version, registry.versions())}
    if info.digest in digests:
        return digests[info.digest]
    data.verify()
    parent = digests.get(info.appended_to) if info.appended_to else None
    return registry.publish(
        folder,
        signature={
            "digest": info.digest,
            "source": info.source,
            "suite": bundle.suite.name,
            "tasks": [task.name for task in bundle.suite.tasks],
            "prompt": asdict(bundle.format),
            "prompt_digest": info.prompt_digest,
            "split": asdict(info.split),
        },
        lineage={
            "inputs": {file.file: file.sha256 for file in info.inputs},
            "config": card["config"],
            "config_digest": info.config_digest,
            "commit": info.commit,
            "appended_to": info.appended_to,
            "parent": None if parent is None else parent.number,
        },
        metrics={
            **{name: card[name] for name in ("rows", "members", "entities")},
            "bins": {name: {key: plan[key] for key in _FIGURES} for name, plan in card["bins"].items()},
        },
        author=author,
        skip=NOT_PUBLISHED,
        on_progress=on_progress,
    )
