"""The cuts between what a model may learn from and what it is judged on: one in time, and one between members."""

import hashlib
from dataclasses import dataclass

import numpy as np

from brew_platform.errors import UserError

__all__ = ["EVERYONE", "Split", "SplitConfig", "is_in_part", "member_hash"]

EVERYONE = (0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """Where to cut; exactly one of `train_share` and `last_days` is given."""

    train_share: float | None = None  # the earliest share of interactions is for training
    last_days: float | None = None  # the last days are the benchmark, everything earlier is for training
    validation: bool = False  # tune here: cut the training part again in the same way and leave the benchmark untouched


@dataclass(frozen=True, kw_only=True)
class Split:
    """Rows at or before `train_until` are for training; later ones, up to `until`, are the benchmark (microseconds)."""

    train_until: int
    until: int

    @staticmethod
    def of(timestamps: np.ndarray, config: SplitConfig) -> "Split":
        """The cut of these rows.

        Args:
            timestamps: int64 microseconds, shape (rows,), ascending.

        Raises:
            UserError: the configuration is not one cut, or leaves nothing to train on or to judge.
        """
        train_until = _cut(timestamps, config)
        until = int(timestamps[-1])
        if config.validation:
            until = train_until
            earlier = timestamps[timestamps <= until]
            train_until = _cut(earlier, config) if len(earlier) else until
        if not timestamps[0] <= train_until < until:
            raise UserError(f"split {config} leaves no rows on one side of the cut; move the cut.")
        return Split(train_until=train_until, until=until)


def is_in_part(member_id: str, part: tuple[float, float]) -> bool:
    """Whether a member belongs to a part of all members, from 0 to 1; their id alone decides.

    (0, .05) and (.05, 1) share nobody.
    """
    return part[0] <= member_hash(member_id) / 2**256 < part[1]


def member_hash(member_id: str) -> int:
    """A number from 0 to 2**256 - 1, the same on any machine."""
    return int(hashlib.sha256(member_id.encode()).hexdigest(), 16)


def _cut(timestamps: np.ndarray, config: SplitConfig) -> int:
    if (config.train_share is None) == (config.last_days is None):
        raise UserError("split: give exactly one of train_share and last_days.")
    if config.train_share is not None:
        if not 0 < config.train_share < 1:
            raise UserError(f"split.train_share is {config.train_share}; it is a share between 0 and 1.")
        return int(timestamps[max(0, round(config.train_share * len(timestamps)) - 1)])
    assert config.last_days is not None
    return int(timestamps[-1] - config.last_days * 86_400_000_000)
