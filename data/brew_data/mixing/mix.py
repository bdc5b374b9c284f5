"""Chooses documents of several sources, within a budget of tokens.

Every document has a rank, a random number that depends on the seed, its source and its id only. Of each stratum of a
source, all documents are used as often as the budget allows, and those with the lowest ranks once more. So the choice
depends neither on the order of the sources and documents nor on the number of workers, and a larger budget chooses what
a smaller one does, and more.

Ranks are those of the exponential distribution. Divided by the importance of a document, the lowest ranks are a sample
without replacement in which more important documents are more probable.

Shape suffixes: D documents of a source.

Source: P. Efraimidis and P. Spirakis, "Weighted random sampling with a reservoir", Information Processing Letters 97
(2006). Ranks are logarithms, so that no importance overflows.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from brew_platform.errors import UserError

__all__ = ["Candidates", "Quota", "SourceShare", "copies", "plan_mix", "ranks"]

_ROUNDING = 1e-6  # what floating point can take from a whole number of tokens


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidates:
    """The documents of a source.

    Args:
        length_D: The tokens of each document, int64, at least 1.
        rank_D: From `ranks`, float64.
        stratum_D: The stratum of each document, as an index into `strata`, int64.
        strata: The names of the strata, each of which has documents.
    """

    length_D: np.ndarray
    rank_D: np.ndarray
    stratum_D: np.ndarray
    strata: Sequence[str]

    @property
    def tokens(self) -> int:
        """Tokens of all documents."""
        return int(self.length_D.sum())


@dataclass(frozen=True, kw_only=True)
class SourceShare:
    """The share of a source in a mix.

    Args:
        weight: Tokens of the source in proportion to those of the others; None for all sources: as many as each has.
        strata_power: The tokens of a stratum are in proportion to those that it has, to this power: 1 keeps the
            proportions, and 0 gives all strata the same.
    """

    weight: float | None = None
    strata_power: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Quota:
    """How often the documents of a stratum are used.

    Args:
        repeats: How often each is used.
        last_rank: Documents with at most this rank are used once more; minus infinity: none.
    """

    repeats: int
    last_rank: float


def ranks(source: str, documents: Iterable[str], *, seed: int) -> np.ndarray:
    """Return the rank of each document, float64, shape (documents,): the logarithm of an exponential variate.

    Args:
        source: The name of the source.
        documents: Ids that are unique in the source.
        seed: Another seed gives other ranks.
    """
    digests = b"".join(hashlib.sha256(f"{seed}/{source}/{id_}".encode()).digest()[:8] for id_ in documents)
    if not digests:
        return np.zeros(0)
    number_D = np.frombuffer(digests, ">u8") >> np.uint64(11)
    uniform_D = (number_D.astype(np.float64) + 0.5) / 2**53  # between 0 and 1, and neither of them
    return np.log(-np.log(uniform_D))


def plan_mix(
    candidates: Mapping[str, Candidates],
    shares: Mapping[str, SourceShare],
    *,
    tokens: int | None,
    most_repeats: float,
) -> dict[str, dict[str, Quota]]:
    """Decide how often each document is used.

    Args:
        candidates: The documents of each source.
        shares: The share of each source.
        tokens: The budget, which is not exceeded; None: the largest one for which no source is used more than once.
        most_repeats: The largest number of tokens that are used of a source or of a stratum, as a multiple of those
            that it has. A stratum that would exceed it leaves its tokens to the other strata of its source.

    Returns:
        By source and stratum: the quota. Each stratum has at most its tokens, and less than its next document below.

    Raises:
        UserError: A source has no documents, only some sources have a weight, or a source has too few tokens.
    """
    if empty := [name for name in candidates if not candidates[name].tokens]:
        raise UserError(f"the source {empty[0]} of the mix has no documents. Remove it, or add data to it.")
    sizes = {name: candidates[name].tokens for name in sorted(candidates)}
    total, parts = _budgets(sizes, shares, tokens)
    for name, budget in parts.items():
        if budget > most_repeats * sizes[name]:
            raise UserError(
                f"the mix has {budget:,} of {total:,} tokens from the source {name}, which has {sizes[name]:,}, so "
                f"that each is used {budget / sizes[name]:.1f} times, but most_repeats is {most_repeats:g}. Lower the "
                f"weight of the source or the tokens of the mix, add data, or raise most_repeats."
            )
    return {
        name: _quotas(candidates[name], budget, shares[name].strata_power, most_repeats)
        for name, budget in parts.items()
    }


def copies(rank_D: np.ndarray, stratum_D: np.ndarray, quotas: Sequence[Quota]) -> np.ndarray:
    """Return how often each document is used, int64, shape (D,).

    Args:
        rank_D: The rank of each document.
        stratum_D: The stratum of each document, as an index into `quotas`.
        quotas: The quota of each stratum.
    """
    repeats_S = np.array([quota.repeats for quota in quotas], np.int64)
    last_S = np.array([quota.last_rank for quota in quotas], np.float64)
    return repeats_S[stratum_D] + (rank_D <= last_S[stratum_D])


def _budgets(
    sizes: Mapping[str, int], shares: Mapping[str, SourceShare], tokens: int | None
) -> tuple[int, dict[str, int]]:
    """Return the tokens of the mix and of each source."""
    weights = {name: shares[name].weight for name in sizes}
    if unweighted := [name for name, weight in weights.items() if weight is None]:
        if len(unweighted) < len(weights):
            raise UserError(
                f"the source {unweighted[0]} of the mix has no weight, but others have. Give each a weight, or none."
            )
        total = sum(sizes.values()) if tokens is None else tokens
        everything = sum(sizes.values())
        return total, {name: total * size // everything for name, size in sizes.items()}
    share = {name: weight / math.fsum(filter(None, weights.values())) for name, weight in weights.items() if weight}
    total = min(_whole(sizes[name] / part) for name, part in share.items()) if tokens is None else tokens
    return total, {name: _whole(total * part) for name, part in share.items()}


def _quotas(candidates: Candidates, budget: int, power: float, most_repeats: float) -> dict[str, Quota]:
    size_S = np.bincount(candidates.stratum_D, candidates.length_D, len(candidates.strata))
    tokens_S = _fill(budget, size_S, size_S**power, most_repeats)
    quotas = {}
    for stratum, name in enumerate(candidates.strata):
        members = candidates.stratum_D == stratum
        quotas[name] = _quota(candidates.length_D[members], candidates.rank_D[members], int(tokens_S[stratum]))
    return quotas


def _fill(budget: int, size_S: np.ndarray, weight_S: np.ndarray, most_repeats: float) -> np.ndarray:
    """Divide a budget by weight, and give what a stratum cannot use to the others. The budget is at most their sum."""
    most_S = np.floor(most_repeats * size_S)
    tokens_S = np.zeros(len(size_S))
    is_open_S = np.ones(len(size_S), bool)
    while is_open_S.any():
        left = budget - tokens_S[~is_open_S].sum()
        part_S = left * weight_S / weight_S[is_open_S].sum()
        is_full_S = is_open_S & (part_S >= most_S)
        if not is_full_S.any():
            tokens_S[is_open_S] = np.floor(part_S[is_open_S] + _ROUNDING)
            break
        tokens_S[is_full_S] = most_S[is_full_S]
        is_open_S &= ~is_full_S
    return tokens_S


def _quota(length_D: np.ndarray, rank_D: np.ndarray, tokens: int) -> Quota:
    """Return the quota of a stratum. Documents with equal ranks are used equally often."""
    repeats, rest = divmod(tokens, int(length_D.sum()))
    order_D = np.argsort(rank_D, kind="stable")
    sorted_D = rank_D[order_D]
    count = int(np.searchsorted(np.cumsum(length_D[order_D]), rest, side="right"))
    if count < len(sorted_D):
        count = int(np.searchsorted(sorted_D, sorted_D[count]))
    return Quota(repeats=repeats, last_rank=float(sorted_D[count - 1]) if count else -math.inf)


def _whole(tokens: float) -> int:
    return int(tokens + _ROUNDING)
