"""Computes the statistics of MovieLens-100K on which the settings of the synthetic graph are based (docs/synthetic.md).

`python -m brew_data.sources.movielens_figures PATH` prints them. Shape suffixes: N ratings, X movies or users.
"""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from brew_data.schema import Tables
from brew_data.sources.movielens import read_movielens

__all__ = ["Figures", "measure"]

Array = np.ndarray[Any, Any]
LIKED = ("rated_4", "rated_5")


class Figures(NamedTuple):
    """Statistics of likes (ratings of 4 or more). Logits include only movies and users with 50 ratings or more."""

    like_rate: float  # share of likes among ratings
    movie_sd: float  # of movies' logits, without sampling noise
    user_sd: float  # of users' logits, without sampling noise
    exposure_correlation: float  # of a movie's log count with its logit
    activity_sd: float  # of users' log counts
    tail_exponent: float  # a of P(count) ~ count^-a, over movies with 100 ratings or more


def measure(tables: Tables) -> Figures:
    """Compute the statistics of all ratings.

    Args:
        tables: The tables of `read_movielens`.
    """
    liked_N = np.isin(tables.interactions["action"].to_numpy(), LIKED)
    movies, likes = _counts(tables.interactions["entity_id"].to_numpy(), liked_N)
    users, users_likes = _counts(tables.interactions["member_id"].to_numpy(), liked_N)
    often = movies >= 50
    tail = movies[movies >= 100]
    return Figures(
        like_rate=float(liked_N.mean()),
        movie_sd=_spread(movies, likes),
        user_sd=_spread(users, users_likes),
        exposure_correlation=float(np.corrcoef(np.log(movies[often]), _logit(movies, likes)[often])[0, 1]),
        activity_sd=float(np.log(users).std()),
        # Clauset, Shalizi, Newman 2009, equation 3.7
        tail_exponent=float(1 + len(tail) / np.log(tail / (100 - 0.5)).sum()),
    )


def _counts(key_N: Array, liked_N: Array) -> tuple[Array, Array]:
    code_N = np.unique(key_N, return_inverse=True)[1]
    return np.bincount(code_N), np.bincount(code_N, weights=liked_N)


def _logit(count_X: Array, likes_X: Array) -> Array:
    return np.log((likes_X + 0.5) / (count_X - likes_X + 0.5))


def _spread(count_X: Array, likes_X: Array) -> float:
    """Return the standard deviation of the logits without their sampling variance, 1 / (n p (1 - p))."""
    often = count_X >= 50
    n, k = count_X[often], likes_X[often]
    p = (k + 0.5) / (n + 1)
    return float(np.sqrt(max(0.0, _logit(n, k).var() - (1 / (n * p * (1 - p))).mean())))


if __name__ == "__main__":
    for name, value in measure(read_movielens(Path(sys.argv[1])))._asdict().items():
        print(f"{name:22}{value:.2f}")
