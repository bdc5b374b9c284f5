"""Splits interactions into a training part and a benchmark: by time, and by members."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from brew_platform.errors import ConfigError, UserError
from brew_platform.settings import Range, Settings

__all__ = ["EVERYONE", "Split", "SplitConfig", "are_in_part", "hash_ids", "hash_integers", "is_in_part", "member_hash"]

EVERYONE = (0.0, 1.0)
_DAY = 86_400_000_000  # microseconds


@dataclass(frozen=True, kw_only=True)
class SplitConfig(Settings):
    """The position of the cut in time. Set exactly one of `train_share` and `last_days`.

    Raises:
        ConfigError: None or both are set, or one is out of its range.
    """

    # Share of interactions, the earliest ones, that is before the benchmark.
    train_share: Annotated[float, Range(gt=0, lt=1)] | None = None
    # Length of the benchmark in days.
    last_days: Annotated[float, Range(gt=0, le=36_500)] | None = None
    # Days before the benchmark whose interactions are not for training. Prompts of the benchmark show them as history.
    gap_days: Annotated[float, Range(ge=0, le=36_500)] = 0.0
    validation: bool = False  # for tuning: split the training part again in the same way; the benchmark is not used

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.train_share is None) == (self.last_days is None):
            count = "neither" if self.last_days is None else "both"
            raise ConfigError(f"set exactly one of train_share and last_days, not {count}.")


@dataclass(frozen=True, kw_only=True)
class Split:
    """Training rows have timestamps up to `train_until`; benchmark rows have later ones, up to `until`.

    Rows of the `gap` after `train_until` are in neither part. All times are microseconds since 1970, UTC.
    """

    train_until: int
    until: int
    gap: int = 0  # microseconds

    @property
    def benchmark_after(self) -> int:
        """Benchmark rows are later than this time."""
        return self.train_until + self.gap

    @staticmethod
    def of(timestamps: np.ndarray, config: SplitConfig) -> "Split":
        """Compute the split of interactions.

        Args:
            timestamps: int64 microseconds, shape (rows,), ascending.
            config: The position of the cut.

        Raises:
            UserError: One part has no rows.
        """
        gap = round(config.gap_days * _DAY)
        cut, until = _cut(timestamps, config), int(timestamps[-1])
        if config.validation:
            until = cut - gap
            timestamps = timestamps[timestamps <= until]
            cut = _cut(timestamps, config) if len(timestamps) else until
        if not (len(timestamps) and timestamps[0] <= cut - gap and cut < timestamps[-1]):
            raise UserError(f"split {config} leaves no rows on one side of the cut. Move the cut.")
        return Split(train_until=cut - gap, until=until, gap=gap)


def hash_ids(ids: Iterable[str]) -> np.ndarray:
    """Return the first 64 bits of the SHA-256 hash of each id, uint64, shape (ids,).

    Ids that cannot be written as UTF-8 do not occur: tables are checked before.
    """
    digests = b"".join(hashlib.sha256(id_.encode()).digest()[:8] for id_ in ids)
    return np.frombuffer(digests, ">u8").astype(np.uint64) if digests else np.zeros(0, np.uint64)


def hash_integers(number_N: np.ndarray) -> np.ndarray:
    """Return 64 bits of each number whose first bits are evenly distributed, uint64, shape (N,).

    Args:
        number_N: int64 or uint64.

    Source: multiplication by 2**64 / golden ratio (Knuth, The Art of Computer Programming, volume 3, section 6.4).
    """
    return number_N.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)


def are_in_part(hash_N: np.ndarray, part: tuple[float, float]) -> np.ndarray:
    """Return whether the members with these hashes belong to a part of all members, bool, shape (N,).

    Args:
        hash_N: From `hash_ids`.
        part: As for `is_in_part`.
    """
    place_N = (hash_N >> np.uint64(11)).astype(np.float64) / 2**53  # exact, and less than 1
    return (place_N >= part[0]) & (place_N < part[1])


def is_in_part(member_id: str, part: tuple[float, float]) -> bool:
    """Return whether a member belongs to a part of all members. The result depends on the id only.

    Args:
        member_id: The id of the member.
        part: Lower bound (inclusive) and upper bound (exclusive), from 0 to 1. The parts (0, .05) and (.05, 1) are
            disjoint and together contain all members.
    """
    return bool(are_in_part(hash_ids([member_id]), part)[0])


def member_hash(member_id: str) -> int:
    """Return the SHA-256 hash of an id as a number from 0 to 2**256 - 1."""
    return int(hashlib.sha256(member_id.encode()).hexdigest(), 16)


def _cut(timestamps: np.ndarray, config: SplitConfig) -> int:
    """Return the time after which the benchmark begins."""
    if config.train_share is not None:
        return int(timestamps[max(0, round(config.train_share * len(timestamps)) - 1)])
    assert config.last_days is not None
    return int(timestamps[-1] - config.last_days * _DAY)
