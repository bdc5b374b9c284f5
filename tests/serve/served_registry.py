"""A registry and a context in a temporary folder, and the settings of a service that serves from them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brew_data.schema import Tables
from brew_platform.registry.registry import Registry
from brew_platform.storage.base import open_store
from brew_serve.context.base import MemberContext

if TYPE_CHECKING:  # imports Ray
    from brew_serve.config import AppConfig

__all__ = ["write_served_registry"]


def write_served_registry(
    root: Path, versions: Sequence[Path], tables: Tables | None = None, **settings: Any
) -> "AppConfig":
    """Publish version folders, promote the first, and return the settings of a service.

    Args:
        root: Receives `store`, `versions` and `context.sqlite`.
        versions: Folders of the versions 1, 2, ...
        tables: Of the service's context; None: requests carry members and candidates.
        settings: Further settings of `AppConfig`.
    """
    from brew_serve.config import AppConfig

    registry = Registry(open_store(str(root / "store")))
    for folder in versions:
        registry.publish(folder, signature={}, lineage={}, metrics={}, author="test")
    registry.promote(1, force=True, reason="test", author="test")
    if tables is not None:
        MemberContext.build(tables, root / "context.sqlite")
        settings = {"context_path": str(root / "context.sqlite"), **settings}
    return AppConfig(registry_url=str(root / "store"), cache_folder=str(root / "versions"), **settings)
