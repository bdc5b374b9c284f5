"""A checkpoint's average is exported as the files that transformers itself would write."""

import json
import math
import resource
import warnings
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch.distributed.checkpoint.state_dict_saver import save
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from brew_platform.errors import DataError, StorageError, UserError
from brew_train.checkpoints.export import export, part_bytes
from brew_train.checkpoints.export_template import ExportTemplate
from brew_train.checkpoints.manifest import Checkpoint
from brew_train.distributed.context import DistributedContext

from ...tiny_families import TINY, make_tiny
from ..checkpoint_state import state_of

WEIGHT = -0.25  # w of the average x = lerp(y, z, w)


def template_of(lm: PreTrainedModel, dtype: str = "auto") -> ExportTemplate:
    return ExportTemplate.of(lm.config, base=None, dtype=dtype)


def checkpoint_of(lm: PreTrainedModel, folder: Path, *, average_weight: float | None = WEIGHT) -> Checkpoint:
    """A checkpoint as the optimizer names its tensors, with z = 2y + 1; a tied head is not a separate parameter."""
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
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is not a dict
    return found


@pytest.mark.parametrize("model_type", TINY)
@pytest.mark.parametrize("max_file_bytes", [5_000, 2**30])
def test_the_export_equals_the_files_that_transformers_writes(
    model_type: str, max_file_bytes: int, alone: DistributedContext, tmp_path: Path
) -> None:
    lm = make_tiny(model_type, tie_word_embeddings=model_type in ("mixtral", "gemma3_text"))
    checkpoint = checkpoint_of(lm, tmp_path / "checkpoint")
    export(checkpoint, template_of(lm), tmp_path / "export", alone, max_file_bytes=max_file_bytes)

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


def test_without_an_average_the_weights_are_exported_in_the_requested_dtype(
    alone: DistributedContext, tmp_path: Path
) -> None:
    lm = make_tiny("mixtral")
    checkpoint = checkpoint_of(lm, tmp_path / "checkpoint", average_weight=None)
    export(checkpoint, template_of(lm, "bfloat16"), tmp_path / "export", alone)
    for name, parameter in AutoModelForCausalLM.from_pretrained(tmp_path / "export").named_parameters():
        assert torch.equal(parameter, lm.get_parameter(name).bfloat16())


@pytest.mark.parametrize("value", [math.nan, math.inf, 3.4e38])  # the last is finite in float32, not in bfloat16
def test_weights_that_are_not_finite_leave_the_earlier_export(
    value: float, alone: DistributedContext, tmp_path: Path
) -> None:
    lm = make_tiny("mixtral")
    export(checkpoint_of(lm, tmp_path / "good", average_weight=None), template_of(lm), tmp_path / "export", alone)
    before = tensors_in(tmp_path / "export")
    with torch.no_grad():
        lm.get_parameter("model.norm.weight")[3] = value
    bad = checkpoint_of(lm, tmp_path / "bad", average_weight=None)
    with pytest.raises(DataError, match=r"model\.norm\.weight have values that are not finite in torch\.bfloat16"):
        export(bad, template_of(lm, "bfloat16"), tmp_path / "export", alone)
    after = tensors_in(tmp_path / "export")
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad", "export", "good"]


def test_a_full_disk_leaves_the_earlier_export(alone: DistributedContext, tmp_path: Path) -> None:
    lm = make_tiny("mixtral")
    checkpoint = checkpoint_of(lm, tmp_path / "checkpoint")
    export(checkpoint, template_of(lm), tmp_path / "export", alone)
    before = tensors_in(tmp_path / "export")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))  # bytes that one file may grow to
    try:
        with pytest.raises(StorageError, match=r"could not be written to .*export.*free some space"):
            export(checkpoint, template_of(lm), tmp_path / "export", alone)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert tensors_in(tmp_path / "export").keys() == before.keys()
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint", "export"}  # no partial file is left

    export(checkpoint, template_of(lm, "float16"), tmp_path / "export", alone)  # a newer one takes its place
    assert {tensor.dtype for tensor in tensors_in(tmp_path / "export").values()} == {torch.float16}


def test_a_checkpoint_that_retention_removed_meanwhile_is_named(alone: DistributedContext, tmp_path: Path) -> None:
    lm = make_tiny("llama")
    checkpoint = checkpoint_of(lm, tmp_path / "checkpoint")
    next((tmp_path / "checkpoint").glob("*.distcp")).unlink()
    with pytest.raises(StorageError, match=r"checkpoint .*checkpoint cannot be read for the export .* export that one"):
        export(checkpoint, template_of(lm), tmp_path / "export", alone)
    assert not (tmp_path / "export").exists()


def write_base(folder: Path, dtype: str | None, generation: str | None = None) -> Path:
    """A Gemma 3 in bfloat16; `dtype` is what its config.json says."""
    make_tiny("gemma3_text").bfloat16().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config.pop("dtype")
    (folder / "config.json").write_text(json.dumps(config | ({"torch_dtype": dtype} if dtype else {})))
    (folder / "generation_config.json").unlink()
    if generation is not None:
        (folder / "generation_config.json").write_text(generation)
    return folder


@pytest.mark.parametrize(
    ("dtype", "setting", "expected"),
    [
        ("bfloat16", "auto", torch.bfloat16),
        (None, "auto", torch.bfloat16),  # as its weights are
        ("float32", "auto", torch.float32),
        ("bfloat16", "float32", torch.float32),
    ],
)
def test_an_export_has_the_dtype_and_the_architecture_of_its_base(
    dtype: str | None, setting: str, expected: torch.dtype, alone: DistributedContext, tmp_path: Path
) -> None:
    base = write_base(tmp_path / "base", dtype)
    lm = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    checkpoint = checkpoint_of(lm, tmp_path / "checkpoint", average_weight=None)
    ExportTemplate.of(lm.config, base=base, dtype=setting).write(tmp_path / "model")
    export(checkpoint, ExportTemplate.load(tmp_path / "model"), tmp_path / "export", alone)
    assert {tensor.dtype for tensor in tensors_in(tmp_path / "export").values()} == {expected}
    found, original = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("export", "base"))
    assert found["dtype"] == str(expected).removeprefix("torch.")
    kept = original.keys() - {"dtype", "torch_dtype"}
    assert {"layer_types", "rope_parameters", "sliding_window", "query_pre_attn_scalar"} < kept
    assert {name: found.get(name) for name in kept} == {name: original[name] for name in kept}
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "export", dtype=torch.float32)
    ids = torch.arange(40).unsqueeze(0)
    torch.testing.assert_close(loaded(ids).logits, lm(ids).logits)


@pytest.mark.parametrize(
    ("generation", "end_token_ids", "ends"),
    [
        ({"eos_token_id": [1, 6], "temperature": 0.6, "top_k": 20, "do_sample": True}, (6, 9), [1, 6, 9]),
        ({"eos_token_id": 1, "top_p": 0.9}, (), 1),
        (None, (9,), [1, 9]),  # config.json has 1
    ],
)
def test_generation_keeps_the_settings_of_the_base_and_gains_our_end_tokens(
    generation: dict[str, object] | None, end_token_ids: tuple[int, ...], ends: object, tmp_path: Path
) -> None:
    base = write_base(tmp_path / "base", "bfloat16", None if generation is None else json.dumps(generation))
    template = ExportTemplate.of(AutoConfig.from_pretrained(base), base=base, dtype="auto", end_token_ids=end_token_ids)
    template.write(tmp_path / "model")
    assert ExportTemplate.load(tmp_path / "model").generation == template.generation
    loaded = GenerationConfig.from_pretrained(tmp_path / "model")
    assert loaded.eos_token_id == ends
    for name, value in (generation or {}).items():
        assert name == "eos_token_id" or getattr(loaded, name) == value


def test_sampling_settings_in_config_json_become_those_of_generation(tmp_path: Path) -> None:
    """Where transformers kept them before it had a generation_config.json."""
    base = write_base(tmp_path / "base", "bfloat16")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"temperature": 0.6, "top_k": 7, "do_sample": True}))
    ExportTemplate.of(AutoConfig.from_pretrained(base), base=base, dtype="auto").write(tmp_path / "model")
    loaded = GenerationConfig.from_pretrained(tmp_path / "model")
    assert (loaded.temperature, loaded.top_k, loaded.do_sample, loaded.eos_token_id) == (0.6, 7, True, 1)
    assert "temperature" not in json.loads((tmp_path / "model" / "config.json").read_text())


def test_transformers_stops_at_the_end_token_of_an_export(alone: DistributedContext, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "float32", json.dumps({"eos_token_id": [1]}))
    lm = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    start = torch.arange(10, 20).unsqueeze(0)
    free = lm.generate(start, max_new_tokens=6, do_sample=False, pad_token_id=0)[0, 10:].tolist()
    checkpoint = checkpoint_of(lm, tmp_path / "checkpoint", average_weight=None)
    ExportTemplate.of(lm.config, base=base, dtype="float32", end_token_ids=(free[2],)).write(tmp_path / "model")
    export(checkpoint, ExportTemplate.load(tmp_path / "model"), tmp_path / "export", alone)
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "export")
    stopped = exported.generate(start, max_new_tokens=6, do_sample=False, pad_token_id=0)[0, 10:].tolist()
    assert stopped == free[: free.index(free[2]) + 1]


def test_a_damaged_generation_config_is_named(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "bfloat16", "[]")
    with pytest.raises(UserError, match=r"generation_config\.json cannot be read .* remove the file"):
        ExportTemplate.of(AutoConfig.from_pretrained(base), base=base, dtype="auto")


@pytest.mark.parametrize(
    ("gigabytes", "workers", "expected"),
    [
        (0.01, 4, 0.0625),  # one file, which one worker writes
        (2, 4, 0.5),
        (281, 8, 5),  # 57 files for 8 workers
    ],
)
def test_every_worker_writes_a_part_of_an_export(gigabytes: float, workers: int, expected: float) -> None:
    assert part_bytes(int(gigabytes * 2**30), workers=workers) == expected * 2**30
