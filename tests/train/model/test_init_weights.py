"""Weights are those of the checkpoint, or of the seed, tensor by tensor."""

import json
from pathlib import Path

import pytest
import torch

from brew_platform.errors import DataError
from brew_platform.model_folder.families import FAMILIES
from brew_platform.model_folder.tensor_map import tensor_regions
from brew_train.config import ModelConfig, ModelShape
from brew_train.distributed.context import DistributedContext
from brew_train.model.init_weights import materialize
from brew_train.model.model import RankingLM, build_model

from ...tiny_families import VOCABULARY, make_tiny

SHAPE = ModelShape(vocabulary_size=VOCABULARY, context_length=64)
ALONE = DistributedContext(device=torch.device("cpu"))


def load(folder: Path) -> RankingLM:
    config = ModelConfig(init_from=str(folder))
    model = build_model(config, SHAPE)
    materialize(model, config, ALONE, seed=0)
    return model


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_family_loads_as_transformers_loads_it(model_type: str, tied: bool, tmp_path: Path) -> None:
    reference = make_tiny(model_type, tie_word_embeddings=tied)
    reference.save_pretrained(tmp_path, max_shard_size="10KB")
    written = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(written.values())) > 1

    lm = load(tmp_path).lm
    expected = dict(reference.named_parameters())
    found = dict(lm.named_parameters())
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    buffers = dict(reference.named_buffers())  # rotary frequencies, which are not in the files
    assert buffers
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in lm.named_buffers())
    assert (lm.lm_head.weight is lm.model.embed_tokens.weight) == tied

    mapped = [entry for name, p in found.items() for entry in tensor_regions(name, p.shape, model_type)]
    assert sorted(entry.name for entry in mapped) == sorted(written)
    assert sum(entry.size for entry in mapped) == sum(p.numel() for p in found.values())


def test_half_precision_files_become_float32(tmp_path: Path) -> None:
    reference = make_tiny("llama").bfloat16()
    reference.save_pretrained(tmp_path)
    for name, parameter in load(tmp_path).lm.named_parameters():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, reference.get_parameter(name).float())


def test_drawn_weights_follow_from_the_seed_alone() -> None:
    config = ModelConfig(hidden_size=16, intermediate_size=32, layers=2, heads=4, initializer_range=0.3)

    def draw(seed: int) -> dict[str, torch.Tensor]:
        model = build_model(config, SHAPE)
        materialize(model, config, ALONE, seed=seed)
        return dict(model.lm.named_parameters())

    before = torch.get_rng_state()
    first, again, other = draw(3), draw(3), draw(4)
    assert torch.equal(before, torch.get_rng_state())
    for name, weights in first.items():
        assert torch.equal(weights, again[name])
        if weights.ndim == 1:
            assert weights.eq(1.0).all()
            continue
        assert not torch.equal(weights, other[name])
        spread = 4 / weights.numel() ** 0.5  # standard errors, with a margin
        assert abs(weights.mean().item()) < 0.3 * spread
        assert weights.std().item() == pytest.approx(0.3, rel=spread)
    experts = first["model.layers.0.mlp.experts.gate_up_proj"]
    assert not torch.equal(experts[0], experts[1])


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    reference = make_tiny("llama")
    with torch.no_grad():
        reference.model.norm.weight[3] = torch.nan
    reference.save_pretrained(tmp_path)
    with pytest.raises(DataError, match=r"model\.norm\.weight in .* has values that are not finite"):
        load(tmp_path)


def test_keys_can_start_as_the_first_query_head_of_their_group() -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "layers": 2, "heads": 4, "kv_heads": 2}
    models = []
    for similar in (False, True):
        config = ModelConfig(**sizes, similar_attention=similar)
        model = build_model(config, SHAPE)
        materialize(model, config, ALONE, seed=3)
        models.append(dict(model.lm.named_parameters()))
    plain, similar = models
    for name, weight in similar.items():
        if name.endswith("k_proj.weight"):
            queries = similar[name.replace("k_proj", "q_proj")]
            assert torch.equal(weight, torch.cat([queries[0:4], queries[8:12]]))  # heads 0 and 2, of 4 rows each
            assert not torch.equal(weight, plain[name])
        else:
            assert torch.equal(weight, plain[name])
