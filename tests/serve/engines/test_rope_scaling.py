"""Scaled rotary embeddings: the formula, the overrides of a model's config, and prompts beyond the trained length."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from brew_platform.config import load_config
from brew_platform.errors import ConfigError, UserError
from brew_serve.engines.config import EngineConfig
from brew_serve.engines.rope_scaling import RopeScaling, context_of, rope_overrides, scaled_theta
from brew_serve.engines.torch import TorchEngine
from brew_serve.version import load_version

MODEL: dict[str, Any] = {
    "hidden_size": 64,
    "num_attention_heads": 2,
    "max_position_embeddings": 384,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
}


@pytest.mark.parametrize("alpha", [1.0, 2.0, 8.0])
def test_the_fastest_pair_rotates_as_in_training_and_the_slowest_alpha_times_slower(alpha: float) -> None:
    theta = scaled_theta(10_000.0, alpha=alpha, dimensions=32)

    def turn(base: float, pair: int) -> float:
        return float(base ** (-2 * pair / 32))

    assert turn(theta, 0) == turn(10_000.0, 0) == 1
    assert turn(theta, 15) == pytest.approx(turn(10_000.0, 15) / alpha)


def test_the_published_example() -> None:
    """Example of bloc97's post: 128 dimensions, alpha 8 and base 10,000 give a base of about 82,700."""
    assert scaled_theta(10_000.0, alpha=8, dimensions=128) == pytest.approx(10_000 * 8 ** (128 / 126))


def test_overrides_of_config_json() -> None:
    changed = rope_overrides(MODEL, RopeScaling(alpha=2))
    assert changed == {
        "rope_parameters": {"rope_type": "default", "rope_theta": pytest.approx(10_000 * 2 ** (32 / 30))},
        "max_position_embeddings": 768,
    }
    assert rope_overrides(MODEL, None) == {}
    older = {name: value for name, value in MODEL.items() if name != "rope_parameters"} | {"rope_theta": 10_000.0}
    assert rope_overrides(older, RopeScaling(alpha=2)) == changed
    overrides = rope_overrides(MODEL, RopeScaling(alpha=2, original_length=100, theta=500.0))
    assert overrides["max_position_embeddings"] == 200
    assert overrides["rope_parameters"]["rope_theta"] == pytest.approx(500 * 2 ** (32 / 30))
    part = MODEL | {"rope_parameters": {"rope_theta": 10_000.0, "partial_rotary_factor": 0.5}}
    assert rope_overrides(part, RopeScaling(alpha=2))["rope_parameters"]["rope_theta"] == pytest.approx(
        10_000 * 2 ** (16 / 14)
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1.0}}, "already scales its rotary embedding"),
        ({"rope_parameters": None}, "has no rope_theta, so it cannot be scaled"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}, "a rotary embedding for each type of layer"),
        ({"rope_local_base_freq": 1e4}, "a rotary embedding for each type of layer"),
        ({"head_dim": 2}, "rotates 2 dimensions of a head, which is too few"),
    ],
)
def test_a_model_that_cannot_be_scaled_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        rope_overrides(MODEL | changes, RopeScaling(alpha=2))


def test_settings_out_of_range_are_refused_and_recipes_can_contain_them() -> None:
    for wrong, sentence in [
        ({"alpha": 0.5}, r"^alpha is 0\.5; give a finite number, at least 1"),
        ({"alpha": 2, "original_length": 0}, r"^original_length is 0"),
        ({"alpha": 2, "theta": -1}, r"^theta is -1"),
    ]:
        with pytest.raises(ConfigError, match=sentence):
            RopeScaling(**wrong)
    assert load_config(EngineConfig, overrides=["rope.alpha=2"]).rope == RopeScaling(alpha=2)
    assert load_config(EngineConfig, {"rope": {"alpha": 4, "theta": 7}}).rope == RopeScaling(alpha=4, theta=7)
    with pytest.raises(ConfigError, match="rope"):
        load_config(EngineConfig, {"rope": {"beta": 4}})


def test_prompts_use_the_extended_context(version_folder: Path) -> None:
    assert load_version(version_folder).compiler.format.context_length == 384
    longer = load_version(version_folder, EngineConfig(rope=RopeScaling(alpha=2)))
    assert (longer.compiler.format.context_length, longer.engine.max_model_len) == (768, 768)
    chosen = load_version(version_folder, EngineConfig(rope=RopeScaling(alpha=2), max_model_len=500))
    assert (chosen.compiler.format.context_length, chosen.engine.max_model_len) == (500, 500)
    with pytest.raises(UserError, match="prompts can have 800 tokens, but the model reads 768"):
        load_version(version_folder, EngineConfig(rope=RopeScaling(alpha=2), max_model_len=800))


async def test_pytorch_reads_beyond_the_trained_length(version_folder: Path) -> None:
    plain, scaled = TorchEngine(version_folder), TorchEngine(version_folder, EngineConfig(rope=RopeScaling(alpha=2)))
    short, long = [9, 30, 40] * 20, [9, 30, 40] * 200
    with pytest.raises(UserError, match="this model reads 383 before the next token"):
        await plain.next_token_logprobs(long, [7])
    assert len(await scaled.next_token_logprobs(long, [7, 8])) == 2
    same, other = await plain.next_token_logprobs(short, [7]), await scaled.next_token_logprobs(short, [7])
    assert math.isfinite(other[0])
    assert same != other
    nothing = TorchEngine(version_folder, EngineConfig(rope=RopeScaling(alpha=1)))
    assert await nothing.next_token_logprobs(short, [7]) == pytest.approx(same, abs=1e-6)
    for engine in (plain, scaled, nothing):
        engine.close()


async def test_the_scaled_engine_equals_a_model_with_the_scaled_config(version_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(version_folder, tmp_path / "model"))
    model = json.loads((folder / "config.json").read_text())
    rope = RopeScaling(alpha=4)
    assert context_of(model, rope) == 1536
    (folder / "config.json").write_text(json.dumps(model | rope_overrides(model, rope)))
    written, scaled = TorchEngine(folder), TorchEngine(version_folder, EngineConfig(rope=rope))
    prompt = [9, 30, 40] * 300
    assert await written.next_token_logprobs(prompt, [7, 8]) == await scaled.next_token_logprobs(prompt, [7, 8])
    written.close()
    scaled.close()
