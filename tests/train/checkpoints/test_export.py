"""A checkpoint's average is exported as the files that transformers itself would write."""

import json
import resource
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch.distributed.checkpoint.state_dict_saver import save
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from brew_platform.errors import StorageError
from brew_train.checkpoints.export import export
from brew_train.checkpoints.manifest import Checkpoint
from brew_train.checkpoints.state import CheckpointState
from brew_train.distributed.context import DistributedContext
from brew_train.inputs.bin_order import BinOrderState
from brew_train.train_state import TrainState


def state_of(average_weight: float | None) -> CheckpointState:
    return CheckpointState(
        stage="cpt",
        train_state=TrainState(),
        position=BinOrderState(plan_hash="a" * 64),
        seed=0,
        optimizer=[],
        average_weight=average_weight,
    )


MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mixtral": {"num_local_experts": 3},
    "qwen2_moe": {
        "num_experts": 3,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 8,
        "shared_expert_intermediate_size": 12,
    },
}
WEIGHT = -0.25  # w of the average x = lerp(y, z, w)


def make_model(model_type: str) -> PreTrainedModel:
    torch.manual_seed(1)
    settings = AutoConfig.for_model(
        model_type, vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=model_type == "mixtral",
        **MODELS[model_type],
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(settings)


def checkpoint_of(lm: PreTrainedModel, folder: Path, *, average_weight: float | None = WEIGHT) -> Checkpoint:
    """A checkpoint as the optimizer names its tensors, with z = 2y + 1; a tied head is no parameter of its own."""
    tensors = {f"model.lm.{name}": p.detach() for name, p in lm.named_parameters()}
    if average_weight is not None:
        tensors |= {f"z.lm.{name}": 2 * p.detach() + 1 for name, p in lm.named_parameters()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that one process has no process group
        save(tensors, checkpoint_id=folder)
    return Checkpoint(folder=folder, step=1, state=state_of(average_weight).as_dict())


def tensors_in(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            assert file.metadata() == {"format": "pt"}
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
    return found


@pytest.mark.parametrize("model_type", MODELS)
@pytest.mark.parametrize("max_file_bytes", [5_000, 2**30])
def test_the_export_is_what_transformers_writes_of_the_average(
    model_type: str, max_file_bytes: int, alone: DistributedContext, tmp_path: Path
) -> None:
    lm = make_model(model_type)
    checkpoint = checkpoint_of(lm, tmp_path / "checkpoint")
    export(checkpoint, lm.config, tmp_path / "export", alone, max_file_bytes=max_file_bytes)

    with torch.no_grad():
        for parameter in lm.parameters():
            parameter.lerp_(2 * parameter + 1, WEIGHT)
    lm.save_pretrained(tmp_path / "reference")
    expected, found = tensors_in(tmp_path / "reference"), tensors_in(tmp_path / "export")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=0)
    ids = torch.arange(12).unsqueeze(0)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "export")
    torch.testing.assert_close(loaded(ids).logits, lm(ids).logits, atol=1e-4, rtol=0)

    names = {path.name for path in (tmp_path / "export").iterdir()}
    if max_file_bytes == 2**30:
        assert names == {path.name for path in (tmp_path / "reference").iterdir()}
        ours, theirs = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("export", "reference"))
        assert ours == theirs
    else:
        index = json.loads((tmp_path / "export/model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in expected.values())
        files = set(index["weight_map"].values())
        assert files == {name for name in names if name.endswith(".safetensors")}
        assert f"model-00001-of-{len(files):05d}.safetensors" in files
        for file in files:
            held = [found[name].nbytes for name, where in index["weight_map"].items() if where == file]
            assert sum(held) <= max_file_bytes or len(held) == 1


def test_without_an_average_the_weights_themselves_are_exported_in_the_type_asked_for(
    alone: DistributedContext, tmp_path: Path
) -> None:
    lm = make_model("mixtral")
    checkpoint = checkpoint_of(lm, tmp_path / "checkpoint", average_weight=None)
    export(checkpoint, lm.config, tmp_path / "export", alone, dtype=torch.bfloat16)
    for name, parameter in AutoModelForCausalLM.from_pretrained(tmp_path / "export").named_parameters():
        assert torch.equal(parameter, lm.get_parameter(name).bfloat16())


def test_a_full_disk_leaves_the_earlier_export(alone: DistributedContext, tmp_path: Path) -> None:
    lm = make_model("mixtral")
    checkpoint = checkpoint_of(lm, tmp_path / "checkpoint")
    export(checkpoint, lm.config, tmp_path / "export", alone)
    before = tensors_in(tmp_path / "export")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))  # bytes that one file may grow to
    try:
        with pytest.raises(StorageError, match=r"could not be written to .*export.*free some space"):
            export(checkpoint, lm.config, tmp_path / "export", alone)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert tensors_in(tmp_path / "export").keys() == before.keys()
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint", "export"}  # nothing half-written is left

    export(checkpoint, lm.config, tmp_path / "export", alone, dtype=torch.float16)  # a newer one takes its place
    assert {tensor.dtype for tensor in tensors_in(tmp_path / "export").values()} == {torch.float16}


def test_a_checkpoint_that_retention_removed_meanwhile_is_named(alone: DistributedContext, tmp_path: Path) -> None:
    lm = make_model("llama")
    checkpoint = checkpoint_of(lm, tmp_path / "checkpoint")
    next((tmp_path / "checkpoint").glob("*.distcp")).unlink()
    with pytest.raises(StorageError, match=r"checkpoint .*checkpoint cannot be read for the export .* export that one"):
        export(checkpoint, lm.config, tmp_path / "export", alone)
    assert not (tmp_path / "export").exists()
