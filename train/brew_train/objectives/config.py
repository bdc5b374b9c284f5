"""Settings of the objectives that ship, and the check of the setting `objective`.

Nothing here imports PyTorch, so that recipes can be checked without it. `resolve_objective` imports the classes only
for an objective that is not listed here.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from brew_platform.config import load_config
from brew_platform.errors import ConfigError
from brew_platform.settings import NonNegativeFloat, Settings, Share

__all__ = ["DpoConfig", "NextTokenConfig", "OrpoConfig", "resolve_objective"]


@dataclass(frozen=True, kw_only=True)
class NextTokenConfig(Settings):
    """Settings of `next_token`."""

    # w_p: share of the mean over all tokens; the rest is over answers; null: 1 (CPT).
    prompt_weight: Share | None = None


@dataclass(frozen=True, kw_only=True)
class DpoConfig(Settings):
    """Settings of `dpo`."""

    # β: a larger value keeps the policy closer to its reference (arXiv:2305.18290).
    beta: NonNegativeFloat = 0.1


@dataclass(frozen=True, kw_only=True)
class OrpoConfig(Settings):
    """Settings of `orpo`."""

    weight: NonNegativeFloat = 0.1  # of the odds-ratio term beside the loss of the answers (arXiv:2403.07691, λ)


_SHIPPED: Mapping[str, type] = MappingProxyType({"next_token": NextTokenConfig, "dpo": DpoConfig, "orpo": OrpoConfig})


def resolve_objective(value: Any) -> dict[str, Any]:
    """Checks the setting `objective` of a stage and fills in the defaults of its config.

    Args:
        value: the name of an objective, or a mapping of `name` and the fields of its config.

    Returns:
        `name` and every field of the config.

    Raises:
        ConfigError: no or an unknown name, an unknown field, or a value outside its range.
    """
    settings = {"name": value} if isinstance(value, str) else dict(value) if isinstance(value, Mapping) else {}
    name = settings.pop("name", None)
    kind = _SHIPPED.get(name) if isinstance(name, str) else None
    config: Any = load_config(kind or _other(name, value), settings, key="objective")
    return {"name": name, **asdict(config)}


def _other(name: Any, value: Any) -> type:
    """Return the config of an objective that another package declares."""
    from brew_train.objectives.base import objectives

    if name not in objectives():
        raise ConfigError(
            f"objective={value!r} does not name an objective; write objective: {{name: NAME}} with one of "
            f"{', '.join(sorted(objectives()))}."
        )
    return objectives()[name].Config
