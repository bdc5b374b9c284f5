"""The objectives equal the formulas of their papers, computed from full logits."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from brew_platform.errors import ConfigError
from brew_train.inputs.batches import Batch, Bin, collate
from brew_train.objectives.base import Objective, make_objective, objectives
from brew_train.objectives.config import resolve_objective
from brew_train.objectives.fused_losses import NO_TARGET
from brew_train.objectives.reference import reference_log_probabilities

VOCABULARY, HIDDEN = 11, 6


def make(name: str, **settings: float) -> Objective:
    return make_objective(resolve_objective({"name": name, **settings}))


def bin_of(*documents: tuple[int, int], random: np.random.Generator) -> Bin:
    """A bin of documents, each with so many prompt and answer tokens."""
    lengths = [sum(document) for document in documents]
    return Bin(
        input_ids=random.integers(VOCABULARY, size=sum(lengths)).astype(np.int32),
        doc_lengths=np.array(lengths, np.int32),
        roles=np.concatenate([[0] * prompt + [1] * answer for prompt, answer in documents]).astype(np.uint8),
    )


def some_bins(seed: int = 0) -> list[Bin]:
    """Three bins with four pairs; prompts of equal length within a pair, answers of one to four tokens."""
    random = np.random.default_rng(seed)
    return [
        bin_of((3, 1), (3, 4), (2, 2), (2, 1), random=random),
        bin_of((1, 3), (1, 2), random=random),
        bin_of((5, 1), (5, 1), random=random),
    ]


class Model:
    """Return hidden states that depend only on the token, so that those of a bin are the same in every batch."""

    def __init__(self, seed: int = 0, scale: float = 1.0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.embedding = (scale * torch.randn(VOCABULARY, HIDDEN, generator=generator)).requires_grad_()
        self.head = torch.randn(VOCABULARY, HIDDEN, generator=generator, requires_grad=True)

    def hidden(self, batch: Batch) -> torch.Tensor:
        return self.embedding[batch.input_ids_1T[0]]

    def gradients(self, loss: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(loss, (self.embedding, self.head))

    def answers(self, batch: Batch) -> list[torch.Tensor]:
        """Each document's answer tokens' log-probabilities, from all logits of the document."""
        logp = (self.hidden(batch) @ self.head.T).log_softmax(dim=-1)
        found = []
        for start, end in zip(batch.cu_seqlens[:-1].tolist(), batch.cu_seqlens[1:].tolist(), strict=True):
            tokens = range(start + 1, end)  # the first has none before it
            picked = [logp[t - 1, batch.input_ids_1T[0, t]] for t in tokens if batch.roles_T[t - 1] == 1]
            found.append(torch.stack(picked))
        return found


def plain_dpo(model: Model, batch: Batch, reference_D: torch.Tensor, beta: float) -> torch.Tensor:
    """Equation 7 of arXiv:2305.18290."""
    ratio = torch.stack([a.sum() for a in model.answers(batch)]) - reference_D
    return torch.stack([-F.logsigmoid(beta * (w - r)) for w, r in zip(ratio[::2], ratio[1::2], strict=True)]).mean()


def plain_orpo(model: Model, batch: Batch, weight: float) -> torch.Tensor:
    """Equations 3 to 7 of arXiv:2403.07691."""
    mean = torch.stack([a.mean() for a in model.answers(batch)])
    odds = mean.exp() / (1 - mean.exp())
    each = [-mean[i] - weight * F.logsigmoid(torch.log(odds[i] / odds[i + 1])) for i in range(0, len(mean), 2)]
    return torch.stack(each).mean()


def test_next_token_by_hand() -> None:
    # equal logits everywhere: ln 11 for each of 3 prompt and 2 answer targets
    batch = collate([bin_of((3, 1), (2, 1), random=np.random.default_rng(0))])
    counts = batch.counts()
    objective = make("next_token", prompt_weight=0.2)
    bound = objective.bind(counts, micro_steps=2)
    loss, each, sums = bound(torch.zeros(7, HIDDEN), torch.ones(VOCABULARY, HIDDEN), batch)
    assert counts.tolist() == [3, 2, 1]
    assert loss.item() == pytest.approx(math.log(11))
    torch.testing.assert_close(each, torch.tensor([1, 1, 1, 0, 1, 1, 0]) * math.log(11))
    assert sums.dtype == torch.float64
    assert bound.micro_steps == 2
    means = objective.means(sums[1:], counts)
    assert tuple(means) == tuple(objective.measures) == ("prompt_loss", "answer_loss")
    assert list(means.values()) == pytest.approx([math.log(11)] * 2)
    assert objective.means(sums[1:], torch.tensor([3, 0, 0]))["answer_loss"] is None
    assert objective.means(torch.tensor([math.nan, 1.0]), counts)["prompt_loss"] is None


def test_next_token_on_answers_only_measures_no_prompt_loss() -> None:
    model, batch = Model(3), collate(some_bins(3))
    counts = batch.counts()
    loss, each, sums = make("next_token", prompt_weight=0.0).bind(counts)(model.hidden(batch), model.head, batch)
    expected = -torch.cat(model.answers(batch)).mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(model.gradients(loss), model.gradients(expected))
    means = make("next_token", prompt_weight=0.0).means(sums[1:], counts)
    assert means == {"prompt_loss": None, "answer_loss": pytest.approx(expected.item(), rel=1e-6)}
    assert each.isfinite().all()
    assert int((each > 0).sum()) == int(counts[1])


def test_dpo_of_literal_log_probabilities() -> None:
    # One pair of two-token documents with the answers 1 and 0; a head of ones and zeros makes the hidden states logits.
    batch = collate(
        [
            Bin(
                input_ids=np.array([2, 1, 2, 0], np.int32),
                doc_lengths=np.array([2, 2], np.int32),
                roles=np.array([0, 1, 0, 1], np.uint8),
            )
        ]
    )
    hidden = torch.tensor([[0.0, 1.0], [9.0, 9.0], [0.0, 1.0], [9.0, 9.0]])  # log p: 1 -> -.3132617, 0 -> -1.3132617
    reference = torch.tensor([-0.5, -1.0])
    loss, each, sums = make("dpo", beta=0.5).bind(batch.counts(), reference_D=reference)(hidden, torch.eye(2), batch)
    margin = 0.5 * ((-0.3132617 + 0.5) - (-1.3132617 + 1.0))  # .25
    assert loss.item() == pytest.approx(-math.log(1 / (1 + math.exp(-margin))), rel=1e-6)
    torch.testing.assert_close(each, torch.tensor([0.3132617, 0, 1.3132617, 0]))
    assert sums.tolist() == pytest.approx([loss.item(), 0.3132617, 1.3132617, 1, margin], rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 2))
def test_dpo_equals_the_plain_formula(seed: int, beta: float) -> None:
    model, batch = Model(seed), collate(some_bins(seed))
    reference = torch.randn(8, generator=torch.Generator().manual_seed(seed)) - 5
    expected = plain_dpo(model, batch, reference, beta)
    loss, _, sums = make("dpo", beta=beta).bind(batch.counts(), reference_D=reference)(
        model.hidden(batch), model.head, batch
    )
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(model.gradients(loss), model.gradients(expected), rtol=1e-5, atol=1e-6)
    ratio = torch.stack([a.sum() for a in model.answers(batch)]) - reference
    margins = beta * (ratio[::2] - ratio[1::2])
    assert sums[0].item() == pytest.approx(expected.item(), rel=1e-5)
    assert sums[3:].tolist() == pytest.approx([(margins > 0).sum().item(), margins.sum().item()], rel=1e-5, abs=1e-5)


# The same examples in every run: in about one of 1,000, float32's rounding alone exceeds these tolerances.
@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.floats(0.01, 2))
def test_orpo_equals_the_plain_formula(seed: int, weight: float) -> None:
    model, batch = Model(seed), collate(some_bins(seed))
    expected = plain_orpo(model, batch, weight)
    objective = make("orpo", weight=weight)
    loss, _, sums = objective.bind(batch.counts())(model.hidden(batch), model.head, batch)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(model.gradients(loss), model.gradients(expected), rtol=1e-5, atol=1e-6)
    means = objective.means(sums[1:], batch.counts())
    nll = [-a.mean().item() for a in model.answers(batch)]
    assert means["answer_loss"] == pytest.approx(np.mean(nll[::2]), rel=1e-5)
    assert means["rejected_loss"] == pytest.approx(np.mean(nll[1::2]), rel=1e-5)


def test_a_policy_equal_to_its_reference_has_loss_ln_2_and_margin_0() -> None:
    model, batch = Model(), collate(some_bins())
    hidden = model.hidden(batch)
    with torch.no_grad():
        _, each, sums = reference_log_probabilities(hidden, model.head, batch)
    assert sums[0] == 0
    torch.testing.assert_close(sums[1:].float(), torch.stack([a.sum() for a in model.answers(batch)]).detach())
    assert (each > 0).sum() == sum(len(a) for a in model.answers(batch))
    objective = make("dpo")
    loss, _, sums = objective.bind(batch.counts(), reference_D=sums[1:].float())(hidden, model.head, batch)
    assert loss.item() == pytest.approx(math.log(2), rel=1e-6)
    means = objective.means(sums[1:], batch.counts())
    assert (means["margin"], means["accuracy"]) == (0, 0)
    assert tuple(objective.measures) == tuple(means)
    # and its gradient increases the difference: β/2 per pair and nat
    chosen, rejected = (torch.stack([a.sum() for a in model.answers(batch)[side::2]]).sum() for side in (0, 1))
    torch.testing.assert_close(
        model.gradients(loss), model.gradients(-0.1 / 2 / 4 * (chosen - rejected)), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", ["next_token", "dpo", "orpo"])
@pytest.mark.parametrize("parts", [[[0], [1], [2]], [[0, 2], [1]], [[2, 1, 0]]])  # workers' and micro-steps' bins
def test_loss_gradients_and_measures_add_up_for_any_split_of_a_step(name: str, parts: list[list[int]]) -> None:
    model, bins = Model(), some_bins()
    objective = make(name, **({"prompt_weight": 0.3} if name == "next_token" else {}))
    with torch.no_grad():
        reference = [
            reference_log_probabilities(model.hidden(b), model.head, b)[2][1:] + 0.7 for b in map(batch_of, bins)
        ]
        reference = [values * torch.arange(1, len(values) + 1) / 3 for values in reference]
    whole = collate(bins)
    counts = whole.counts()

    def run(batch: Batch, held: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return objective.bind(counts, reference_D=torch.cat(held).float())(model.hidden(batch), model.head, batch)

    loss, _, sums = run(whole, reference)
    split = [run(collate([bins[i] for i in part]), [reference[i] for i in part]) for part in parts]
    total = torch.stack([part[0] for part in split]).sum()
    torch.testing.assert_close(total, loss, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(torch.stack([part[2] for part in split]).sum(dim=0), sums, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(model.gradients(total), model.gradients(loss), rtol=1e-5, atol=1e-6)


def batch_of(bin_: Bin) -> Batch:
    return collate([bin_])


@pytest.mark.parametrize("scale", [0.0, 1e-4, 30.0, 1e4])
@pytest.mark.parametrize("name", ["dpo", "orpo"])
def test_certain_and_impossible_answers_have_finite_losses_and_gradients(name: str, scale: float) -> None:
    # at 1e4 some answers have probability 1 in float32, others 0: odds of infinity and of 0
    model, batch = Model(scale=scale), collate(some_bins())
    objective = make(name).bind(batch.counts(), reference_D=torch.zeros(8))
    loss, _, sums = objective(model.hidden(batch), model.head, batch)
    assert loss.isfinite()
    assert sums.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in model.gradients(loss))


def test_orpo_odds_are_accurate_for_certain_and_unlikely_answers() -> None:
    # one-token answers, the chosen one with logits (x, 0), the rejected one with (0, x): log odds are x and -x
    for x in (-12.0, -5.0, -0.7, 0.0, 0.7, 5.0, 12.0):
        batch = collate(
            [
                Bin(
                    input_ids=np.array([0, 0, 0, 1], np.int32),
                    doc_lengths=np.array([2, 2], np.int32),
                    roles=np.array([0, 1, 0, 1], np.uint8),
                )
            ]
        )
        hidden = torch.tensor([[x, 0.0]] * 4)
        _, _, sums = make("orpo").bind(batch.counts())(hidden, torch.eye(2), batch)
        assert sums[-1].item() == pytest.approx(2 * x, rel=5e-3, abs=1e-6)  # at 12, 1 - p is 6e-6 ± 6e-8


def test_prompt_tokens_of_pairs_are_not_projected() -> None:
    model, batch = Model(), collate(some_bins())
    hidden = model.hidden(batch).detach()
    unread = (batch.roles_T == 0) | (batch.targets_T == NO_TARGET)
    hidden[unread] = math.nan  # would break every reader
    for name in ("dpo", "orpo"):
        loss, each, _ = make(name).bind(batch.counts(), reference_D=torch.zeros(8))(hidden, model.head, batch)
        assert loss.isfinite()
        assert (each[unread] == 0).all()


def test_the_registry_finds_the_objectives_of_this_package() -> None:
    assert sorted(objectives()) == ["dpo", "next_token", "orpo"]
    assert {name: kind.bins for name, kind in objectives().items()} == {
        "next_token": "documents",
        "dpo": "pairs",
        "orpo": "pairs",
    }
    assert [name for name, kind in objectives().items() if kind.needs_reference] == ["dpo"]


def test_settings_of_an_objective_are_resolved_with_its_defaults() -> None:
    assert resolve_objective("dpo") == {"name": "dpo", "beta": 0.1}
    assert resolve_objective({"name": "next_token", "prompt_weight": 0.2}) == {
        "name": "next_token",
        "prompt_weight": 0.2,
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("ppo", "does not name an objective.*one of dpo, next_token, orpo"),
        ({"beta": 0.1}, "does not name an objective"),
        (3, "does not name an objective"),
        ({"name": "dpo", "weight": 1}, "unknown key objective.weight.*Known keys: beta"),
        ({"name": "dpo", "beta": math.nan}, "^objective.beta is nan; give a finite number, at least 0"),
        ({"name": "orpo", "weight": -5}, "^objective.weight is -5.0; give a finite number, at least 0"),
        ({"name": "next_token", "prompt_weight": 1.5}, "^objective.prompt_weight is 1.5; .* at most 1"),
    ],
)
def test_wrong_settings_of_an_objective_are_refused(value: object, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        resolve_objective(value)
