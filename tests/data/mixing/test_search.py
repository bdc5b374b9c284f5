"""The search for a mix: known laws are recovered, shares stay within their bounds, and noise is not extrapolated."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brew_data.mixing.mix import Candidates, SourceShare, plan_mix, ranks
from brew_data.mixing.search import (
    LEAST_RANK_CORRELATION,
    Bounds,
    MixingLaw,
    Trials,
    decide,
    fewest_mixes,
    fit_mixing_law,
    fit_scaling_law,
    propose_mixes,
    rank_correlations,
    share_bounds,
)
from brew_platform.errors import UserError

sizes = st.lists(st.integers(1, 10**7), min_size=2, max_size=5)
seeds = st.integers(0, 2**32)


def bounds_of(size: list[int], use: float, most_repeats: float) -> Bounds:
    """Bounds of a mix that uses a part of the tokens that could be used."""
    tokens = max(1, int(use * most_repeats * sum(size)))
    return share_bounds(np.array(size), tokens=tokens, most_repeats=most_repeats)


def drawn_laws(sources: int, sets: int, seed: int) -> list[MixingLaw]:
    random = np.random.default_rng(seed)
    return [MixingLaw(constant=random.uniform(0.2, 2), rate_S=random.uniform(-2.5, 0.7, sources)) for _ in range(sets)]


def losses_of(laws: list[MixingLaw], share_MS: np.ndarray) -> np.ndarray:
    return np.column_stack([law.losses(share_MS) for law in laws])


def is_mix(share_MS: np.ndarray, bounds: Bounds) -> bool:
    in_bounds = (share_MS >= bounds.least_S - 1e-9).all() and (share_MS <= bounds.most_S + 1e-9).all()
    return bool(in_bounds and np.allclose(share_MS.sum(axis=-1), 1, atol=1e-9))


@given(sizes, st.floats(0.01, 0.95), st.floats(1, 8), seeds)
def test_proposed_mixes_are_within_the_bounds(size: list[int], use: float, most_repeats: float, seed: int) -> None:
    bounds, natural_S = bounds_of(size, use, most_repeats), np.array(size) / sum(size)
    count = fewest_mixes(len(size)) + 3
    share_MS = propose_mixes(natural_S, bounds, count=count, seed=seed)
    assert share_MS.shape == (count, len(size))
    assert is_mix(share_MS, bounds)
    assert np.allclose(share_MS[0], natural_S)
    assert (share_MS > 0).all()
    assert (share_MS == propose_mixes(natural_S, bounds, count=count, seed=seed)).all()
    assert (
        share_MS[: len(size) + 1] == propose_mixes(natural_S, bounds, count=count, seed=seed + 1)[: len(size) + 1]
    ).all()


@given(sizes, st.floats(0.01, 0.95), st.floats(1, 8), st.integers(0, 4))
def test_a_share_at_its_upper_bound_can_be_built(size: list[int], use: float, most_repeats: float, place: int) -> None:
    size = [number + 1_000 for number in size]
    bounds, tokens = bounds_of(size, use, most_repeats), int(use * most_repeats * sum(size))
    place %= len(size)
    share_S = propose_mixes(np.eye(len(size))[place], bounds, count=len(size) + 1, seed=0)[0]
    weights = [float(f"{share:.5g}") for share in share_S]
    candidates = {
        str(n): Candidates(
            length_D=np.array([number]), rank_D=ranks("", ["a"], seed=0), stratum_D=np.array([0]), strata=["a"]
        )
        for n, number in enumerate(size)
    }
    shares = {str(n): SourceShare(weight=weight) for n, weight in enumerate(weights)}
    plan_mix(candidates, shares, tokens=tokens, most_repeats=most_repeats)  # raises if one is used too often


def test_a_mix_without_a_choice_is_refused() -> None:
    with pytest.raises(UserError, match=r"the mix has 800 tokens, but its sources have 200, each used at most 4 times"):
        share_bounds(np.array([100, 100]), tokens=800, most_repeats=4)


@settings(max_examples=10)
@given(st.integers(2, 4), seeds)
def test_a_known_law_is_recovered(sources: int, seed: int) -> None:
    [law] = drawn_laws(sources, 1, seed)
    random = np.random.default_rng(seed)
    share_MS, new_MS = random.dirichlet(np.ones(sources), size=4 * sources), random.dirichlet(np.ones(sources), size=50)
    found = fit_mixing_law(share_MS, law.losses(share_MS))
    spread = np.ptp(law.losses(share_MS))
    assert np.abs(found.losses(new_MS) - law.losses(new_MS)).max() <= 1e-3 + 0.05 * spread


@settings(max_examples=5)
@given(st.integers(2, 4), st.integers(1, 3), seeds)
def test_the_chosen_mix_is_the_best_within_the_bounds(sources: int, sets: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    laws, size = drawn_laws(sources, sets, seed), random.integers(100, 10_000, sources).tolist()
    bounds = bounds_of(size, random.uniform(0.1, 0.9), 4.0)
    share_MS = propose_mixes(np.array(size) / sum(size), bounds, count=4 * sources, seed=seed)
    trials = Trials(
        share_MS=share_MS,
        size_K=np.array([10]),
        tokens_T=np.array([10]),
        loss_MKTV=losses_of(laws, share_MS)[:, None, None],
    )
    weight_V = random.uniform(0.1, 1, sets)
    decision = decide(trials, weight_V, bounds)
    assert is_mix(decision.share_S, bounds)
    predicted = losses_of(list(decision.laws), decision.share_S[None])[0] @ weight_V
    others_MS = random.dirichlet(np.ones(len(share_MS)), size=100) @ share_MS
    if decision.is_by_law:
        assert predicted <= (losses_of(list(decision.laws), others_MS) @ weight_V).min() + 1e-7
        assert np.allclose(decision.loss_V @ weight_V, predicted)
    assert decision.loss_V @ weight_V <= decision.natural_V @ weight_V + 1e-3


@settings(max_examples=10)
@given(st.floats(0.1, 1.2), seeds)
def test_a_known_scaling_law_is_recovered(exponent: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    limit_M, scale_M = random.uniform(0.5, 2, 6), random.uniform(0.2, 3, 6)
    size_X = np.array([1e5, 3e5, 1e6, 3e6])
    loss_MX = limit_M[:, None] + scale_M[:, None] * (size_X / 1e5) ** -exponent
    law = fit_scaling_law(size_X, loss_MX)
    assert law.exponent == pytest.approx(exponent, abs=1e-3)
    assert np.allclose(law.losses(1e8), limit_M + scale_M * 1e3**-exponent, atol=2e-2)


def test_a_loss_that_does_not_fall_is_extrapolated_as_it_is() -> None:
    law = fit_scaling_law(np.array([1.0, 2.0, 4.0]), np.array([[1.0, 1.1, 1.2], [2.0, 2.0, 2.0]]))
    assert np.allclose(law.losses(1e6), [1.1, 2.0])


def make_trials(*, shuffled: bool = False) -> tuple[Trials, Bounds, MixingLaw]:
    """Losses that fall with size and tokens, with the same order of the mixes everywhere, or another at each size."""
    bounds = Bounds(np.full(3, 0.01), np.full(3, 0.9))
    share_MS = propose_mixes(np.array([0.6, 0.3, 0.1]), bounds, count=14, seed=0)
    law = MixingLaw(constant=1.0, rate_S=np.array([-0.5, -2.0, 0.3]))
    size_K, tokens_T = np.array([100, 200, 400, 800]), np.array([1_000, 2_000, 3_000, 4_000])
    mixes = [np.roll(share_MS, k if shuffled else 0, axis=0) for k in range(4)]
    loss_MK = np.stack([law.losses(mix_MS) + 5 / k**0.5 for mix_MS, k in zip(mixes, size_K, strict=True)], axis=1)
    loss_MKT = loss_MK[:, :, None] + 30 / tokens_T**0.5
    return Trials(share_MS=share_MS, size_K=size_K, tokens_T=tokens_T, loss_MKTV=loss_MKT[..., None]), bounds, law


def test_losses_are_extrapolated_over_tokens_and_sizes() -> None:
    trials, bounds, law = make_trials()
    decision = decide(trials, np.ones(1), bounds, target_parameters=10_000, target_tokens=90_000)
    assert decision.refusal == ""
    assert decision.size_ranks == pytest.approx([1, 1, 1])
    assert decision.token_ranks == pytest.approx([1, 1, 1])
    expected = law.losses(trials.share_MS[:1]) + 5 / 10_000**0.5 + 30 / 90_000**0.5
    assert decision.natural_V == pytest.approx(expected, abs=1e-3)
    assert decision.is_by_law
    most, least = trials.share_MS[:, 1].max(), trials.share_MS[:, 2].min()
    assert decision.share_S == pytest.approx([1 - most - least, most, least], abs=1e-3)  # most of the best source
    measured = decide(trials, np.ones(1), bounds)
    assert measured.natural_V == pytest.approx(trials.loss_MKTV[0, -1, -1])


def test_mixes_with_another_order_at_another_size_are_not_extrapolated() -> None:
    trials, bounds, _ = make_trials(shuffled=True)
    decision = decide(trials, np.ones(1), bounds, target_parameters=10_000)
    assert min(decision.size_ranks) < LEAST_RANK_CORRELATION
    assert "between 100 and 200 parameters the mixes have a rank correlation of" in decision.refusal
    assert decision.natural_V == pytest.approx(trials.loss_MKTV[0, -1, -1])
    assert decide(trials, np.ones(1), bounds, target_tokens=10_000).refusal == ""


def test_noise_is_not_a_law() -> None:
    trials, bounds, _ = make_trials()
    noise_M = np.random.default_rng(3).uniform(1, 1.1, len(trials.share_MS))
    only_noise = Trials(
        share_MS=trials.share_MS, size_K=np.array([1]), tokens_T=np.array([1]), loss_MKTV=noise_M[:, None, None, None]
    )
    decision = decide(only_noise, np.ones(1), bounds)
    assert decision.skill <= 0
    assert not decision.is_by_law
    assert decision.share_S.tolist() == trials.share_MS[np.argmin(noise_M)].tolist()
    assert decision.loss_V == pytest.approx(noise_M.min())


def test_equal_losses_have_no_rank_correlation() -> None:
    assert rank_correlations(np.array([[1.0, 1.0, 2.0], [1.0, 2.0, 3.0], [1.0, 3.0, 5.0]])) == pytest.approx([0.0, 1.0])
    same = np.ones((5, 1, 1, 1))
    bounds = Bounds(np.zeros(2), np.ones(2))
    share_MS = propose_mixes(np.array([0.5, 0.5]), bounds, count=5, seed=0)
    trials = Trials(share_MS=share_MS, size_K=np.array([1]), tokens_T=np.array([1]), loss_MKTV=same)
    assert not decide(trials, np.ones(1), bounds).is_by_law
