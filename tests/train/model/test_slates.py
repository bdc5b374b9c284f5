"""A slate has the logits, the loss and the gradients of the documents that it stands for."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from brew_train.config import ModelConfig, ModelShape
from brew_train.distributed.context import DistributedContext
from brew_train.inputs.batches import Batch, Bin, collate
from brew_train.model.init_weights import materialize
from brew_train.model.model import RankingLM, build_model
from brew_train.objectives.base import make_objective

VOCABULARY = 50
ALONE = DistributedContext(device=torch.device("cpu"))
ANSWERS_ONLY = make_objective({"name": "next_token", "prompt_weight": 0.0})

Segments = list[tuple[int, int]]  # tokens and prefix of each segment of a document, as in `brew_data.segments`


@cache
def small_model() -> RankingLM:
    """Weights are larger than usual, so that a leak would show."""
    config = ModelConfig(
        hidden_size=16, intermediate_size=16, layers=2, heads=4, kv_heads=2, initializer_range=0.3, router_aux_loss=0.0
    )
    model = build_model(config, ModelShape(vocabulary_size=VOCABULARY, context_length=64))
    materialize(model, config, ALONE, seed=3)
    return model.train()


@st.composite
def documents(draw: st.DrawFn) -> Segments:
    prefix = draw(st.integers(1, 12))
    candidates = draw(st.lists(st.tuples(st.integers(3, 6), st.integers(1, prefix)), max_size=4))
    return [(prefix, 0), *candidates]


def packed(segments: list[Segments], seed: int) -> Bin:
    """A bin of documents of random tokens; the last two tokens of each segment are an answer."""
    random = np.random.default_rng(seed)
    lengths, prefixes = np.array([segment for document in segments for segment in document], np.int32).T
    return Bin(
        input_ids=random.integers(0, VOCABULARY, lengths.sum()).astype(np.int32),
        doc_lengths=np.array([sum(length for length, _ in document) for document in segments], np.int32),
        roles=np.concatenate([np.arange(length) >= length - 2 for length in lengths]).astype(np.uint8),
        segment_lengths=lengths,
        segment_prefixes=prefixes,
    )


def unpacked(bin_: Bin) -> list[tuple[Bin, slice]]:
    """A bin for each segment, with its prefix, and the places of the segment in the row of `bin_`."""
    found = []
    start = document = 0
    for length, prefix in zip(bin_.segment_lengths.tolist(), bin_.segment_prefixes.tolist(), strict=True):
        document = document if prefix else start
        places = np.r_[document : document + prefix, start : start + length]
        roles = np.where(np.arange(len(places)) < prefix, 0, bin_.roles[places]).astype(np.uint8)
        alone = Bin(input_ids=bin_.input_ids[places], doc_lengths=np.array([len(places)], np.int32), roles=roles)
        found.append((alone, slice(start, start + length)))
        start += length
    return found


def hidden(model: RankingLM, batch: Batch) -> torch.Tensor:
    seen: list[torch.Tensor] = []

    class Recorded:
        micro_steps = 1

        def __call__(self, hidden_TH: torch.Tensor, head_VH: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, ...]:
            seen.append(hidden_TH.detach() @ head_VH.T.detach())
            return (hidden_TH.sum(),) * 3

    model(batch, Recorded(), ALONE)
    return seen[0]


def gradients(model: RankingLM) -> dict[str, torch.Tensor]:
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@settings(max_examples=25)
@given(st.lists(documents(), min_size=1, max_size=3), st.integers(0, 99))
def test_a_slate_equals_its_documents(segments: list[Segments], seed: int) -> None:
    model, bin_ = small_model(), packed(segments, seed)
    batch = collate([bin_])
    logits = hidden(model, batch)
    for alone, places in unpacked(bin_):
        expected = hidden(model, collate([alone]))[-(places.stop - places.start) :]
        torch.testing.assert_close(logits[places], expected, atol=1e-5, rtol=1e-5)

    objective = ANSWERS_ONLY.bind(batch.counts())
    loss, losses_T, _ = model(batch, objective, ALONE)
    loss.backward()
    of_slates = gradients(model)
    each = [model(collate([alone]), objective, ALONE) for alone, _ in unpacked(bin_)]
    expected_loss = torch.stack([result[0] for result in each]).sum()
    torch.testing.assert_close(loss, expected_loss, atol=1e-5, rtol=1e-5)
    expected_loss.backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(of_slates[name], gradient, atol=1e-5, rtol=1e-4, msg=name)
    for (_, places), (_, losses, _) in zip(unpacked(bin_), each, strict=True):
        torch.testing.assert_close(losses_T[places], losses[-(places.stop - places.start) :], atol=1e-5, rtol=1e-5)


def test_a_candidate_sees_neither_others_nor_the_rest_of_its_prefix() -> None:
    model, bin_ = small_model(), packed([[(6, 0), (4, 6), (4, 3)], [(5, 0)]], seed=1)
    batch = collate([bin_])
    before = hidden(model, batch)

    def changed(place: int) -> list[bool]:
        ids = batch.input_ids_1T.clone()
        ids[0, place] = (ids[0, place] + 1) % VOCABULARY
        differs = (hidden(model, replace(batch, input_ids_1T=ids)) - before).abs() > 1e-5
        return differs.any(dim=1).tolist()

    assert changed(4) == [False] * 4 + [True] * 6 + [False] * 9  # of the prefix, after what the second candidate sees
    assert changed(1) == [False] + [True] * 13 + [False] * 5
    assert changed(6) == [False] * 6 + [True] * 4 + [False] * 9  # of the first candidate


@pytest.mark.parametrize("bins", [1, 2])
def test_the_squared_lengths_are_those_of_the_attention(bins: int) -> None:
    """A causal mask has about half as many pairs of tokens and keys."""
    bin_ = packed([[(6, 0), (4, 6), (4, 3)], [(5, 0)]], seed=1)
    pairs = 6 * 6 + (4 * 6 * 2 + 4 * 4) + (4 * 3 * 2 + 4 * 4) + 5 * 5
    assert collate([bin_] * bins).squared_lengths().item() == bins * pairs
