"""The process of vLLM: models that it cannot load are refused with the reason, and it ends with its owner."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from brew_platform.errors import UserError
from brew_serve.engines.config import EngineConfig
from brew_serve.engines.torch import TorchEngine

from ...engine_processes import ENGINES, engine_cores

pytestmark = ENGINES


async def test_a_folder_without_a_model_is_refused_at_once(tmp_path: Path, version_folder: Path) -> None:
    from brew_serve.engines.vllm.engine import VllmEngine

    for make in (TorchEngine, VllmEngine):
        with pytest.raises(UserError, match=r"has no config\.json"):
            make(tmp_path)
    shutil.copytree(version_folder, tmp_path / "model")
    config, weights = tmp_path / "model/config.json", tmp_path / "model/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    for make in (TorchEngine, VllmEngine):
        with pytest.raises(UserError, match=r"model\.safetensors cannot be read"):
            make(tmp_path / "model")
    weights.unlink()
    for make in (TorchEngine, VllmEngine):
        with pytest.raises(UserError, match=r"has neither model\.safetensors nor"):
            make(tmp_path / "model")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"attn_logit_softcapping": 50.0}))
    for make in (TorchEngine, VllmEngine):
        with pytest.raises(UserError, match=r"has attn_logit_softcapping=50\.0 in its config\.json"):
            make(tmp_path / "model")
    with pytest.raises(UserError, match=r"max_model_len is 4096, but the model in .* was made for 384 tokens"):
        VllmEngine(version_folder, EngineConfig(max_model_len=4096))


@pytest.mark.real
async def test_unsupported_head_sizes_are_refused_before_vllm_crashes(version_folder: Path, tmp_path: Path) -> None:
    from brew_serve.engines.vllm.engine import VllmEngine

    shutil.copytree(version_folder, tmp_path / "model")
    path = tmp_path / "model/config.json"
    config = json.loads(path.read_text())  # the same tensors, cut into more heads
    config |= {name: 4 * config[name] for name in ("num_attention_heads", "num_key_value_heads")} | {"head_dim": 8}
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match="has attention heads of 8 dimensions, but on CPU vLLM supports only 32, 64"):
        VllmEngine(tmp_path / "model")


@pytest.mark.real
async def test_a_cache_too_small_for_one_prompt_is_refused_with_the_reason(version_folder: Path) -> None:
    from brew_serve.engines.vllm.engine import VllmEngine

    before = engine_cores()
    with pytest.raises(UserError, match=r"kv_cache_bytes is 65536, which is too little for one prompt of 384 tokens"):
        VllmEngine(version_folder, EngineConfig(kv_cache_bytes=65536))
    assert engine_cores() == before


def change(tensors: dict[str, torch.Tensor], name: str, tensor: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """Return the tensors with another one under `name`, or without it."""
    return {key: value for key, value in {**tensors, name: tensor}.items() if value is not None}


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("model.norm.weight", torch.ones(7), r"has the shape \[7\], but config\.json requires \[64\]"),
        ("model.layers.1.block_sparse_moe.experts.3.w2.weight", torch.ones(64, 65), r"has the shape \[64, 65\]"),
        ("lm_head.weight", None, r"has no tensor lm_head\.weight, which its config\.json requires"),
        ("model.vision.weight", torch.ones(2), r"has 1 tensors that its config\.json does not describe"),
        ("model.norm.weight", torch.ones(64, dtype=torch.int8), "has the type I8, so the model is quantized"),
    ],
)
async def test_weights_that_do_not_match_config_json_are_refused_before_an_engine_starts(
    name: str, tensor: torch.Tensor | None, message: str, version_folder: Path, tmp_path: Path
) -> None:
    from brew_serve.engines.vllm.engine import VllmEngine

    folder = Path(shutil.copytree(version_folder, tmp_path / "model"))
    weights = folder / "model.safetensors"
    save_file(change(load_file(weights), name, tensor), weights, {"format": "pt"})
    for make in (TorchEngine, VllmEngine):
        with pytest.raises(UserError, match=message):
            make(folder)


LATE = """
    import threading, time

    run = threading.Thread.run

    def run_late(thread):
        if "process_output_sockets" in thread.name:
            time.sleep(2)
        run(thread)

    threading.Thread.run = run_late
"""


@pytest.mark.real
async def test_an_output_thread_that_connects_late_still_receives_answers(
    version_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from brew_serve.engines.vllm.engine import VllmEngine

    (tmp_path / "sitecustomize.py").write_text(textwrap.dedent(LATE))  # read by each Python that starts
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    engine = VllmEngine(version_folder)
    try:
        assert len(await asyncio.wait_for(engine.next_token_logprobs([2, 30, 40, 50], [7]), 30)) == 1
        notes = engine._notes
    finally:
        engine.close()
    assert not notes.exists()


OWNER = """
    import sys, time
    from pathlib import Path
    from brew_serve.engines.config import EngineConfig
    from brew_serve.engines.vllm.engine import VllmEngine

    if __name__ == "__main__":
        engine = VllmEngine(Path(sys.argv[1]), EngineConfig(tensor_parallel_size=int(sys.argv[2])))
        print("ready", engine._notes, flush=True)
        time.sleep(600)
"""


@pytest.mark.real
@pytest.mark.parametrize("workers", [1, 2])
async def test_engine_processes_end_with_a_killed_owner(version_folder: Path, tmp_path: Path, workers: int) -> None:
    script = tmp_path / "owner.py"
    script.write_text(textwrap.dedent(OWNER))
    # vLLM sets this variable at import; where it is the first one, setproctitle does nothing, and the name must hold
    first = {"TORCHINDUCTOR_COMPILE_THREADS": "2"} if workers == 1 else {}
    owner = subprocess.Popen(
        [sys.executable, script, version_folder, str(workers)],
        stdout=subprocess.PIPE,
        text=True,
        env=first | {name: value for name, value in os.environ.items() if name not in first},
    )
    assert owner.stdout is not None
    notes = Path(next(line for line in owner.stdout if line.startswith("ready")).split()[1])
    children = psutil.Process(owner.pid).children(recursive=True)
    assert any("EngineCor" in child.name() for child in children)
    assert sum("Worker_TP" in child.name() for child in children) == (workers if workers > 1 else 0)

    owner.send_signal(signal.SIGKILL)
    owner.wait()
    owner.stdout.close()

    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive, f"still running: {alive}"
    assert not notes.exists()
