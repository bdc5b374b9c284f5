"""The mix of sources: budgets are respected, weights are reached, and nothing depends on an order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brew_data.mixing.importance import BUCKETS, count_ngrams, log_importance
from brew_data.mixing.mix import Candidates, Quota, SourceShare, copies, plan_mix, ranks
from brew_platform.errors import UserError

lengths = st.lists(st.integers(1, 50), min_size=1, max_size=40)
strata_names = ("a", "b", "c")


def candidates(source: str, length: list[int], strata: list[int] | None = None, *, seed: int = 0) -> Candidates:
    """Documents with the numbers 0, 1, ... as ids; the strata that occur are numbered."""
    found = sorted(set(strata or [0]))
    return Candidates(
        length_D=np.array(length, np.int64),
        rank_D=ranks(source, map(str, range(len(length))), seed=seed),
        stratum_D=np.array([found.index(stratum) for stratum in strata or [0] * len(length)], np.int64),
        strata=[strata_names[stratum] for stratum in found],
    )


def chosen(documents: Candidates, quotas: dict[str, Quota]) -> np.ndarray:
    return copies(documents.rank_D, documents.stratum_D, list(quotas.values()))


def used(documents: Candidates, quotas: dict[str, Quota]) -> int:
    return int((chosen(documents, quotas) * documents.length_D).sum())


@given(st.lists(st.tuples(lengths, st.floats(0.01, 10)), min_size=1, max_size=4), st.integers(1, 5_000))
def test_each_source_has_its_tokens_within_one_document(sources: list[tuple[list[int], float]], tokens: int) -> None:
    found = {str(number): candidates(str(number), length) for number, (length, _) in enumerate(sources)}
    shares = {str(number): SourceShare(weight=weight) for number, (_, weight) in enumerate(sources)}
    quotas = plan_mix(found, shares, tokens=tokens, most_repeats=1e9)
    total = sum(weight for _, weight in sources)
    assert sum(used(found[name], quotas[name]) for name in found) <= tokens
    for name, documents in found.items():
        expected = tokens * shares[name].weight / total  # type: ignore[operator]
        assert expected - documents.length_D.max() - 1 < used(documents, quotas[name]) <= expected + 1e-6
        assert np.ptp(chosen(documents, quotas[name])) <= 1


@given(lengths, st.integers(1, 2_000), st.integers(0, 2_000))
def test_a_larger_budget_chooses_what_a_smaller_one_does(length: list[int], tokens: int, more: int) -> None:
    documents = candidates("x", length)
    few, many = (
        chosen(documents, plan_mix({"x": documents}, {"x": SourceShare()}, tokens=budget, most_repeats=1e9)["x"])
        for budget in (tokens, tokens + more)
    )
    assert (few <= many).all()


@given(lengths, lengths, st.integers(1, 500), st.randoms(use_true_random=False))
def test_the_order_of_sources_and_documents_does_not_matter(
    left: list[int], right: list[int], tokens: int, random: object
) -> None:
    found = {"left": candidates("left", left), "right": candidates("right", right)}
    shares = {"left": SourceShare(weight=1), "right": SourceShare(weight=2)}
    quotas = plan_mix(found, shares, tokens=tokens, most_repeats=1e9)
    order = list(range(len(left)))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = Candidates(
        length_D=found["left"].length_D[order],
        rank_D=found["left"].rank_D[order],
        stratum_D=found["left"].stratum_D[order],
        strata=["a"],
    )
    again = plan_mix({"right": found["right"], "left": shuffled}, shares, tokens=tokens, most_repeats=1e9)
    assert again == quotas
    assert (chosen(shuffled, again["left"]) == chosen(found["left"], quotas["left"])[order]).all()


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 2)), min_size=1, max_size=40), st.integers(1, 3_000))
def test_strata_of_power_zero_have_the_same_tokens_up_to_the_most_repeats(
    documents: list[tuple[int, int]], tokens: int
) -> None:
    found = candidates("x", [length for length, _ in documents], [stratum for _, stratum in documents])
    tokens = min(tokens, 4 * found.tokens)
    [quotas] = plan_mix({"x": found}, {"x": SourceShare(strata_power=0.0)}, tokens=tokens, most_repeats=4.0).values()
    counts = chosen(found, quotas)
    by_stratum = [(found.stratum_D == place, place) for place in range(len(found.strata))]
    used_S = [int((counts * found.length_D)[members].sum()) for members, _ in by_stratum]
    longest_S = [int(found.length_D[members].max()) for members, _ in by_stratum]
    size_S = [int(found.length_D[members].sum()) for members, _ in by_stratum]
    assert tokens - sum(longest_S) - len(size_S) <= sum(used_S) <= tokens
    for tokens_used, size in zip(used_S, size_S, strict=True):
        assert tokens_used <= 4 * size
    open_strata = [place for place, size in enumerate(size_S) if used_S[place] + longest_S[place] < 4 * size]
    for place in open_strata:  # a stratum that could have more has as much as any other
        assert used_S[place] + longest_S[place] + 1 >= max(used_S)


def test_without_weights_and_budget_each_document_is_used_once() -> None:
    found = {"a": candidates("a", [5, 7]), "b": candidates("b", [100, 1, 3])}
    quotas = plan_mix(found, {name: SourceShare() for name in found}, tokens=None, most_repeats=4.0)
    assert all((chosen(found[name], quotas[name]) == 1).all() for name in found)


def test_without_a_budget_the_scarcest_source_is_used_once() -> None:
    found = {"a": candidates("a", [1] * 10), "b": candidates("b", [1] * 100)}
    shares = {"a": SourceShare(weight=1), "b": SourceShare(weight=2)}
    quotas = plan_mix(found, shares, tokens=None, most_repeats=4.0)
    assert [used(found[name], quotas[name]) for name in found] == [10, 20]


def test_another_seed_chooses_other_documents() -> None:
    draws = []
    for seed in (0, 0, 1):
        documents = candidates("x", [1] * 100, seed=seed)
        quotas = plan_mix({"x": documents}, {"x": SourceShare()}, tokens=50, most_repeats=1.0)
        draws.append(chosen(documents, quotas["x"]).tolist())
    assert draws[0] == draws[1] != draws[2]


def test_documents_with_equal_ranks_are_used_equally_often() -> None:
    documents = Candidates(
        length_D=np.full(4, 10), rank_D=np.array([1.0, 2.0, 2.0, 3.0]), stratum_D=np.zeros(4, int), strata=["a"]
    )
    quotas = plan_mix({"x": documents}, {"x": SourceShare()}, tokens=25, most_repeats=1.0)
    assert chosen(documents, quotas["x"]).tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize(
    ("lengths", "weights", "tokens", "message"),
    [
        (([], [1]), (1, 1), 1, "source a of the mix has no documents"),
        (([1], [1]), (1, None), 1, "source b of the mix has no weight"),
        (([1], [50]), (1, 1), 20, "10 of 20 tokens from the source a, which has 1, so that each is used 10.0 times"),
    ],
)
def test_an_impossible_mix_is_refused(
    lengths: tuple[list[int], list[int]], weights: tuple[float | None, ...], tokens: int, message: str
) -> None:
    found = {name: candidates(name, length) for name, length in zip("ab", lengths, strict=True)}
    shares = {name: SourceShare(weight=weight) for name, weight in zip("ab", weights, strict=True)}
    with pytest.raises(UserError, match=message):
        plan_mix(found, shares, tokens=tokens, most_repeats=4.0)


def test_documents_that_resemble_the_target_are_more_important() -> None:
    target = (np.array([1, 2, 3, 1, 2, 3] * 10, np.int32), np.array([6] * 10))
    source = (np.array([1, 2, 3, 7, 8, 9, 1, 2, 9], np.int32), np.array([3, 3, 3]))
    importance_D = log_importance(*source, target_B=count_ngrams(*target), source_B=count_ngrams(*source))
    assert importance_D.shape == (3,)
    assert importance_D[0] > importance_D[2] > importance_D[1]
    assert count_ngrams(*source).sum() == 9 + 6  # unigrams, and bigrams within documents
    assert count_ngrams(np.zeros(0, np.int32), np.zeros(0, int)).tolist() == [0] * BUCKETS
