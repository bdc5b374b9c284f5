"""Weights are those of the checkpoint, or of the seed, tensor by tensor; a folder that lacks some is refused."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from brew_platform.errors import DataError, UserError
from brew_train.config import ModelConfig, ModelShape
from brew_train.distributed.context import DistributedContext
from brew_train.model.hf_tensor_map import FAMILIES, tensor_regions
from brew_train.model.init_weights import materialize
from brew_train.model.model import RankingLM, build_model

SHAPE = ModelShape(vocabulary_size=50, context_length=64)
ALONE = DistributedContext(device=torch.device("cpu"))
COMMON: Mapping[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
QWEN_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
OWN: Mapping[str, Mapping[str, Any]] = {
    "llama": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 1e4,
            "factor": 2.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        }
    },
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "mixtral": {"num_local_experts": 3},
    "qwen2_moe": {**QWEN_EXPERTS, "shared_expert_intermediate_size": 12, "mlp_only_layers": [1]},
    "qwen3_moe": {**QWEN_EXPERTS, "head_dim": 8},
}


def make_model(model_type: str, **changes: Any) -> PreTrainedModel:
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **COMMON, **OWN[model_type], **changes))


def load(folder: Path) -> RankingLM:
    config = ModelConfig(init_from=str(folder))
    model = build_model(config, SHAPE)
    materialize(model, config, ALONE, seed=0)
    return model


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_family_loads_as_transformers_loads_it(model_type: str, tied: bool, tmp_path: Path) -> None:
    reference = make_model(model_type, tie_word_embeddings=tied)
    reference.save_pretrained(tmp_path, max_shard_size="10KB")
    written = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(written.values())) > 1

    lm = load(tmp_path).lm
    expected = dict(reference.named_parameters())
    found = dict(lm.named_parameters())
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    buffers = dict(reference.named_buffers())  # rotary frequencies, of which the files hold nothing
    assert buffers
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in lm.named_buffers())
    assert (lm.lm_head.weight is lm.model.embed_tokens.weight) == tied

    mapped = [entry for name, p in found.items() for entry in tensor_regions(name, p.shape, model_type)]
    assert sorted(entry.name for entry in mapped) == sorted(written)
    assert sum(entry.size for entry in mapped) == sum(p.numel() for p in found.values())


def test_half_precision_files_become_float32(tmp_path: Path) -> None:
    reference = make_model("llama").bfloat16()
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
        spread = 4 / weights.numel() ** 0.5  # standard errors, with room
        assert abs(weights.mean().item()) < 0.3 * spread
        assert weights.std().item() == pytest.approx(0.3, rel=spread)
    experts = first["model.layers.0.mlp.experts.gate_up_proj"]
    assert not torch.equal(experts[0], experts[1])


def change_file(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


NORM = "model.norm.weight"


@pytest.mark.parametrize(
    ("damage", "kind", "message"),
    [
        (
            lambda folder: change_file(folder, lambda tensors: tensors.pop(NORM)),
            UserError,
            r"has no tensor model\.norm\.weight, which its config\.json requires",
        ),
        (
            lambda folder: change_file(folder, lambda tensors: tensors.update({NORM: torch.ones(17)})),
            UserError,
            r"model\.norm\.weight in .* has the shape \[17\], but config\.json requires \[16\]",
        ),
        (
            lambda folder: change_file(
                folder, lambda tensors: tensors.update({NORM: torch.ones(16, dtype=torch.int8)})
            ),
            UserError,
            r"model\.norm\.weight in .* has the type I8, so the model is quantised",
        ),
        (
            lambda folder: cut_short(folder / "model.safetensors"),
            DataError,
            r"model\.safetensors cannot be read .*copy the model again",
        ),
        (
            lambda folder: (folder / "model.safetensors").unlink(),
            UserError,
            r"has neither model\.safetensors nor model\.safetensors\.index\.json: .* save_pretrained",
        ),
        (
            lambda folder: (folder / "model.safetensors.index.json").write_text("{}"),
            DataError,
            r"model\.safetensors\.index\.json is damaged",
        ),
        (
            lambda folder: (folder / "model.safetensors.index.json").write_text(
                json.dumps({"weight_map": {"model.embed_tokens.weight": "model-00001-of-00002.safetensors"}})
            ),
            DataError,
            r"model-00001-of-00002\.safetensors cannot be read",
        ),
    ],
)
def test_a_damaged_folder_is_refused(
    damage: Callable[[Path], Any], kind: type[UserError], message: str, tmp_path: Path
) -> None:
    make_model("mixtral").save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(kind, match=message):
        load(tmp_path)
