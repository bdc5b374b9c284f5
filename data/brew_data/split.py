"""Splits interactions into a training part and a benchmark: by time, and by members."""

import hashlib
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from brew_platform.errors import ConfigError, UserError
from brew_platform.settings import Range, Settings

__all__ = ["EVERYONE", "Split", "SplitConfig", "is_in_part", "member_hash"]

EVERYONE = (0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class SplitConfig(Settings):
    """The position of the cut in time. Set exactly one of `train_share` and `last_days`.

    Raises:
        ConfigError: None or both are set, or one is out of its range.
    """

    # Share of interactions, the earliest ones, that is for training.
    train_share: Annotated[float, Range(gt=0, lt=1)] | None = None
    # Length of the benchmark in days; all earlier interactions are for training.
    last_days: Annotated[float, Range(gt=0, le=36_500)] | None = None
    validation: bool = False  # for tuning: split the training part again in the same way; the benchmark is not used

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.train_share is None) == (self.last_days is None):
            count = "neither" if self.last_days is None else "both"
            raise ConfigError(f"set exactly one of train_share and last_days, not {count}.")


@dataclass(frozen=True, kw_only=True)
class Split:
    """Training rows have timestamps up to `train_until`; benchmark rows have later ones, up to `until`."""

    train_until: int  # microseconds since 1970, UTC
    until: int  # microseconds since 1970, UTC

    @staticmethod
    def of(timestamps: np.ndarray, config: SplitConfig) -> "Split":
        """Compute the split of interactions.

        Args:
            timestamps: int64 microseconds, shape (rows,), ascending.
            config: The position of the cut.

        Raises:
            UserError: One part has no rows.
        """
        train_until = _cut(timestamps, config)
        until = int(timestamps[-1])
        if config.validation:
            until = train_until
            earlier = timestamps[timestamps <= until]
            train_until = _cut(earlier, config) if len(earlier) else until
        if not timestamps[0] <= train_until < until:
            raise UserError(f"split {config} leaves no rows on one side of the cut. Move the cut.")
        return Split(train_until=train_until, until=until)


def is_in_part(member_id: str, part: tuple[float, float]) -> bool:
    """Return whether a member belongs to a part of all members. The result depends on the id only.

    Args:
        member_id: The id of the member.
        part: Lower bound (inclusive) and upper bound (exclusive), from 0 to 1. The parts (0, .05) and (.05, 1) are
            disjoint and together contain all members.
    """
    return part[0] <= member_hash(member_id) / 2**256 < part[1]


def member_hash(member_id: str) -> int:
    """Return the SHA-256 hash of an id as a number from 0 to 2**256 - 1."""
    return int(hashlib.sha256(member_id.encode()).hexdigest(), 16)


def _cut(timestamps: np.ndarray, config: SplitConfig) -> int:
    if config.train_share is not None:
        return int(timestamps[max(0, round(config.train_share * len(timestamps)) - 1)])
    assert config.last_days is not None
    return int(timestamps[-1] - config.last_days * 86_400_000_000)
