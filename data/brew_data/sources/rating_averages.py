"""Makes every rating an impression of its own, which shows how its entity and its member had rated until then.

An average that includes later ratings, or the rating itself, would tell a model what it has to predict. A service knows
the averages of the moment. So each rating gets an entity of its own: the fields of the rated one, the average and the
number of its ratings, and the bias of the member, of strictly earlier ratings only.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brew_data.schema import Tables, micros

__all__ = [
    "AVERAGE",
    "MEMBER_BIAS",
    "PRIOR_MEMBER_RATINGS",
    "PRIOR_RATINGS",
    "RATINGS",
    "add_rating_averages",
    "earlier_ratings",
    "member_biases",
]

AVERAGE, RATINGS, MEMBER_BIAS = "average", "ratings", "member_bias"  # added fields
PRIOR_RATINGS = 8.0  # with the average of all earlier ratings; an entity without earlier ratings has that average
PRIOR_MEMBER_RATINGS = 5.0  # with the averages of their entities; a member without earlier ratings has bias 0
_STEPS = np.array([0, 1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000])


def add_rating_averages(tables: Tables, stars_N: np.ndarray, *, until: int | None = None) -> Tables:
    """Return tables in which every interaction has an entity of its own, with three more fields.

    `average` has one digit after the point, such as 3.9, and is absent before the first rating of all. `ratings` is
    rounded down to 1, 2, 3, 5, 10, 20, 50 and so on, so that the texts have few different numbers.
    `member_bias` has a sign and one digit, such as +0.4: how far this member rated above the averages.

    Args:
        tables: Interactions and rated entities.
        stars_N: float64, shape (interactions,): the value of each rating.
        until: Microseconds since 1970; later ratings are in no average. None: no limit.

    Returns:
        The tables. An entity id is that of the rated entity and the interaction id, joined with `@`.
    """
    rows = tables.interactions
    place_N = pc.index_in(rows["entity_id"], tables.entities["entity_id"].combine_chunks()).to_numpy()
    member_N = pc.index_in(rows["member_id"], tables.members["member_id"].combine_chunks()).to_numpy()
    time_N = micros(rows).to_numpy()
    count_N, average_N = earlier_ratings(place_N, time_N, stars_N, until=until)
    bias_N = member_biases(member_N, time_N, stars_N, average_N, until=until)
    ids = pc.binary_join_element_wise(
        rows["entity_id"].cast(pa.string()), rows["interaction_id"].cast(pa.string()), "@"
    ).combine_chunks()
    shown = tables.entities.take(pa.array(place_N))
    fields = shown["fields"].combine_chunks()
    columns = {field.name: fields.field(field.name) for field in fields.type}
    columns[AVERAGE] = pa.array([None if np.isnan(average) else f"{average:.1f}" for average in average_N], pa.string())
    columns[RATINGS] = pa.array(_STEPS[np.searchsorted(_STEPS, count_N, side="right") - 1].astype(str).tolist())
    columns[MEMBER_BIAS] = pa.array([f"{bias:+.1f}" for bias in np.round(bias_N, 1) + 0.0])  # + 0.0: no -0.0
    entities = shown.set_column(shown.column_names.index("entity_id"), "entity_id", ids)
    entities = entities.set_column(
        entities.column_names.index("fields"),
        "fields",
        pa.StructArray.from_arrays(list(columns.values()), list(columns)),
    )
    interactions = rows.set_column(rows.column_names.index("entity_id"), "entity_id", ids)
    return Tables(
        members=tables.members,
        entities=entities,
        interactions=interactions,
        oracle=tables.oracle,
        connections=tables.connections,
    )


def earlier_ratings(
    entity_N: np.ndarray, time_N: np.ndarray, stars_N: np.ndarray, *, until: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the number and the smoothed average of the ratings of the same entity at strictly earlier times.

    The average is (sum + 8 g) / (number + 8), where g is the average of all strictly earlier ratings. It is NaN if
    there are none.

    Args:
        entity_N: int64, shape (N,).
        time_N: int64, shape (N,): microseconds, ascending.
        stars_N: float64, shape (N,).
        until: As in `add_rating_averages`.

    Returns:
        int64 and float64, each of shape (N,).
    """
    all_N = np.zeros(len(entity_N), np.int64)
    before_N, sum_N = _earlier(all_N, time_N, stars_N, until)
    overall_N = np.where(before_N > 0, sum_N / np.maximum(before_N, 1), np.nan)
    count_N, total_N = _earlier(entity_N, time_N, stars_N, until)
    return count_N, (total_N + PRIOR_RATINGS * overall_N) / (count_N + PRIOR_RATINGS)


def member_biases(
    member_N: np.ndarray,
    time_N: np.ndarray,
    stars_N: np.ndarray,
    average_N: np.ndarray,
    *,
    until: int | None = None,
) -> np.ndarray:
    """Return the smoothed mean of stars - average over the ratings of the same member at strictly earlier times.

    The bias is the sum of the differences / (number + 5), and 0 without earlier ratings. It is the user bias of a model
    of biases (Koren, Bell and Volinsky, "Matrix Factorization Techniques", IEEE Computer 2009), fitted in one pass.

    Args:
        member_N: int64, shape (N,).
        time_N: As in `earlier_ratings`.
        stars_N: As in `earlier_ratings`.
        average_N: float64, shape (N,), from `earlier_ratings`. A rating whose average is NaN has the difference 0.
        until: As in `add_rating_averages`.

    Returns:
        float64, shape (N,).
    """
    count_N, total_N = _earlier(member_N, time_N, np.nan_to_num(stars_N - average_N), until)
    return total_N / (count_N + PRIOR_MEMBER_RATINGS)


def _earlier(
    group_N: np.ndarray, time_N: np.ndarray, value_N: np.ndarray, until: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the number and the sum of the values of the same group at strictly earlier times, up to `until`."""
    order = np.lexsort((time_N, group_N))
    group, time = group_N[order], time_N[order]
    starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]]) if len(group) else np.zeros(0, np.int64)
    start = np.repeat(starts, np.diff(np.r_[starts, len(group)]))
    tied = np.r_[False, (group[1:] == group[:-1]) & (time[1:] == time[:-1])] if len(group) else np.zeros(0, bool)
    # The first row of those of the same group and time: all rows between the start of the group and it are earlier.
    first = np.maximum.accumulate(np.where(tied, 0, np.arange(len(group))))
    if until is not None:
        known = np.r_[0, np.cumsum(time <= until)]
        last = start + (known[first] - known[start])  # known rows of a group come first
    else:
        last = first
    sums = np.r_[0.0, np.cumsum(value_N[order])]
    count_N, sum_N = np.empty(len(group), np.int64), np.empty(len(group))
    count_N[order], sum_N[order] = last - start, sums[last] - sums[start]
    return count_N, sum_N
