"""A base model gains rows of embeddings for control tokens, near the mean of those that it has."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from brew_platform.errors import UserError
from brew_train.config import ModelConfig, ModelShape
from brew_train.distributed.context import DistributedContext
from brew_train.model.base_model import require_base_model
from brew_train.model.init_weights import materialize
from brew_train.model.model import RankingLM, build_model
from brew_train.model.vocabulary import ROWS_PER_READ, SPREAD, VocabularyPlan, plan_vocabulary, vocabulary_rows

from ...tiny_families import VOCABULARY, write_tiny

ALONE = DistributedContext(device=torch.device("cpu"))
SHAPE = ModelShape(vocabulary_size=VOCABULARY + 5, context_length=64)
ROWS = 128  # 101 ids, rounded up to a multiple of 64


def load(folder: Path, *, seed: int = 0, shape: ModelShape = SHAPE, **changes: int) -> RankingLM:
    config = ModelConfig(init_from=str(folder), **changes)
    model = build_model(config, shape)
    materialize(model, config, ALONE, seed=seed)
    return model


@pytest.mark.parametrize(
    ("base", "rows", "multiple", "padded"),
    [(32000, 32005, 64, 32064), (32000, 32000, 64, 32000), (50, 51, 1, 51), (128, 100, 64, 128), (64, 80, 64, 128)],
)
def test_the_vocabulary_grows_only_for_ids_that_the_model_lacks(
    base: int, rows: int, multiple: int, padded: int
) -> None:
    plan = plan_vocabulary(base=base, rows=rows, multiple=multiple, model="base")
    assert plan == VocabularyPlan(base=base, rows=rows, padded=padded)


def test_a_tokenizer_with_many_more_ids_belongs_to_another_model() -> None:
    plan_vocabulary(base=100, rows=116, multiple=64, model="base")
    with pytest.raises(UserError, match=r"the model in base has 100 token ids, .* made with 117: .*tokenizer\.from"):
        plan_vocabulary(base=100, rows=117, multiple=64, model="base")


@pytest.mark.parametrize("tied", [True, False])
def test_new_rows_are_near_the_mean_and_the_rest_is_the_base_model(tied: bool, tmp_path: Path) -> None:
    base = write_tiny("llama", tmp_path, tie_word_embeddings=tied)
    require_base_model(tmp_path, SHAPE)
    lm = load(tmp_path).lm
    assert lm.config.vocab_size == ROWS
    assert (lm.get_output_embeddings().weight is lm.get_input_embeddings().weight) == tied
    for grown, stored in [
        (lm.get_input_embeddings().weight, base.get_input_embeddings().weight),
        (lm.get_output_embeddings().weight, base.get_output_embeddings().weight),
    ]:
        assert grown.shape == (ROWS, stored.shape[1])
        assert torch.equal(grown[:VOCABULARY], stored)
        added, mean, deviation = grown[VOCABULARY:], stored.mean(0), stored.std(0, correction=0)
        scaled = (added - mean) / (SPREAD * deviation)
        assert scaled.std().item() == pytest.approx(1, abs=0.1)
        assert abs(scaled.mean().item()) < 0.1
        assert len(added.unique(dim=0)) == ROWS - VOCABULARY  # tokens can be told apart from the start
    for name, parameter in lm.named_parameters():
        if not name.endswith(("embed_tokens.weight", "lm_head.weight")):
            assert torch.equal(parameter, base.get_parameter(name))


@pytest.mark.parametrize("tied", [True, False])
def test_new_tokens_hardly_change_the_predictions(tied: bool, tmp_path: Path) -> None:
    base = write_tiny("llama", tmp_path, tie_word_embeddings=tied).eval()
    lm = load(tmp_path).lm.eval()
    lm.set_attn_implementation("eager")
    ids = torch.arange(3, 23)[None]
    with torch.no_grad():
        before = base(ids).logits.softmax(-1)
        after = lm(ids).logits.softmax(-1)
    share = after[..., VOCABULARY:].sum(-1)
    assert share.max().item() < (ROWS - VOCABULARY) / ROWS  # below the average probability
    torch.testing.assert_close(after[..., :VOCABULARY] / (1 - share[..., None]), before)


def test_new_rows_follow_from_the_seed_and_differ_by_matrix(tmp_path: Path) -> None:
    write_tiny("llama", tmp_path, tie_word_embeddings=False)
    before = torch.get_rng_state()
    first, again, other = (load(tmp_path, seed=seed).lm for seed in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state())
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert torch.equal(first.get_parameter(name), again.get_parameter(name))
        assert not torch.equal(first.get_parameter(name)[VOCABULARY:], other.get_parameter(name)[VOCABULARY:])
    assert load(tmp_path, vocabulary_multiple=1).lm.config.vocab_size == SHAPE.vocabulary_size


def test_statistics_do_not_need_the_whole_matrix() -> None:
    matrix = torch.randn(2 * ROWS_PER_READ + 5, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    read: list[int] = []

    def rows(some: slice) -> torch.Tensor:
        read.append(some.stop - some.start)
        return matrix[some]

    base, padded = len(matrix), len(matrix) + 2000
    drawn = vocabulary_rows("head", rows, slice(base, padded), base=base, padded=padded, control_ids=[], seed=1)
    assert read == [ROWS_PER_READ, ROWS_PER_READ, 5]
    torch.testing.assert_close(drawn.mean(0), matrix.float().mean(0), atol=0.01, rtol=0)
    torch.testing.assert_close(drawn.std(0), SPREAD * matrix.float().std(0), atol=0.01, rtol=0)


@pytest.mark.parametrize("cut", [7, 20, 33, 64])
def test_rows_do_not_depend_on_how_the_matrix_is_cut(cut: int) -> None:
    matrix = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    matrix[[5, 6, 30]] = 0
    before = matrix.clone()
    rows = partial(vocabulary_rows, "head", matrix.__getitem__, base=40, padded=64, control_ids=[6, 30, 2], seed=1)
    whole = rows(slice(0, 64))
    parts = [rows(slice(start, min(start + cut, 64))) for start in range(0, 64, cut)]
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(matrix, before)
    # Rows of control tokens that are zero are drawn; other zero rows, such as that of padding, stay.
    assert whole[5].eq(0).all()
    assert not whole[6].eq(0).any()
    assert not torch.equal(whole[6], whole[30])
    kept = [i for i in range(40) if i not in (6, 30)]
    assert torch.equal(whole[kept], matrix[kept])


def test_reserved_tokens_that_were_never_trained_get_rows(tmp_path: Path) -> None:
    base = write_tiny("llama", tmp_path, tie_word_embeddings=False)
    weights = load_file(tmp_path / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name][90:94] = 1e-20
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    shape = ModelShape(vocabulary_size=VOCABULARY, context_length=64, control_ids=(2, 90, 91))
    lm = load(tmp_path, shape=shape).lm
    assert lm.config.vocab_size == VOCABULARY
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        found, stored = lm.get_parameter(name), base.get_parameter(name)
        assert torch.equal(found[:90], stored[:90])
        assert torch.equal(found[92:94], torch.full_like(found[92:94], 1e-20))
        assert found[90:92].norm(dim=1).min() > 0.01
        assert not torch.equal(found[90], found[91])
    assert torch.equal(load(tmp_path, shape=replace(shape, control_ids=())).lm.lm_head.weight[90], found[92])


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "lm_head.weight"])
def test_a_matrix_that_lacks_rows_of_the_base_itself_is_refused(name: str, tmp_path: Path) -> None:
    write_tiny("llama", tmp_path, tie_word_embeddings=False)
    weights = load_file(tmp_path / "model.safetensors")
    weights[name] = weights[name][:-1].clone()
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=rf"the tensor {name} .* has the shape \[95, 64\], .* requires \[96, 64\]"):
        require_base_model(tmp_path, SHAPE)


@pytest.mark.parametrize("family", ["gemma3_text", "qwen3", "qwen3_moe", "mixtral"])
def test_every_family_gains_rows(family: str, tmp_path: Path) -> None:
    base = write_tiny(family, tmp_path)
    require_base_model(tmp_path, SHAPE)
    lm = load(tmp_path).lm
    assert torch.equal(lm.get_input_embeddings().weight[:VOCABULARY], base.get_input_embeddings().weight)
    assert lm.get_input_embeddings().weight[VOCABULARY:].isfinite().all()
