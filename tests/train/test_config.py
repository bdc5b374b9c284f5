"""Settings that contradict each other are refused at construction."""

from collections.abc import Callable

import pytest

from brew_platform.config import load_config
from brew_platform.errors import ConfigError
from brew_train.config import ModelConfig, ShardingConfig, StageConfig, TrainConfig


def test_a_recipe_is_loaded_with_overrides() -> None:
    recipe = {
        "stages": [{"name": "sft", "steps": 3, "objective": {"name": "next_token", "prompt_weight": 0.01}}],
        "model": {"layers": 2},
    }
    config = load_config(TrainConfig, recipe, overrides=["stages[0].bins_per_step=4", "model.init_from=folder"])
    assert config.stages == [
        StageConfig(name="sft", steps=3, objective={"name": "next_token", "prompt_weight": 0.01}, bins_per_step=4)
    ]
    assert (config.model.layers, config.model.init_from, config.workers) == (2, "folder", 2)


def test_a_recipe_with_wrong_settings_is_refused() -> None:
    with pytest.raises(ConfigError, match="3 workers with 3 micro-steps need at least one bin each: give 9 or more"):
        load_config(TrainConfig, {"stages": [{"bins_per_step": 8, "micro_steps": 3}]}, overrides=["workers=3"])


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: TrainConfig(precision="float16"), "^precision is 'float16'; give one of auto, float32, bfloat16"),
        (lambda: TrainConfig(stages=[]), "nothing would be trained"),
        (lambda: TrainConfig(stages=[StageConfig(), StageConfig()]), "needs a unique name"),
        (lambda: TrainConfig(workers=2, min_workers=3), "^min_workers is 3; give at most the number of workers, 2"),
        (lambda: TrainConfig(workers=3, sharding=ShardingConfig(replicas=2)), "not a multiple of sharding.replicas"),
        (lambda: StageConfig(objective="ppo"), "^objective='ppo' .*one of dpo, next_token, orpo"),
        (lambda: StageConfig(schedule="linear"), "^schedule is 'linear'; give one of schedule_free, cosine, constant"),
        (lambda: StageConfig(on_bad_step="ignore"), "^on_bad_step is 'ignore'; give one of stop, skip"),
        (lambda: StageConfig(name="../../escaped"), r"^name is '\.\./\.\./escaped'; give letters, digits"),
        (lambda: StageConfig(max_grad_norm=-1.0), "^max_grad_norm is -1.0; give a finite number, more than 0"),
        (lambda: ModelConfig(train_embeddings=False), "starts from scratch, so its embeddings would stay random"),
        (lambda: ModelConfig(hidden_size=30, heads=4), "a multiple of 8"),
        (lambda: ModelConfig(heads=4, kv_heads=3), "a divisor of 4"),
        (lambda: ModelConfig(experts=2, experts_per_token=3), "lower it"),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        make()


@pytest.mark.parametrize(
    ("override", "start"),
    [
        ("stages.0.learning_rate=.nan", "stages[0].learning_rate is nan; give a finite number, at least 0."),
        ("stages.1.max_loss_rise=.nan", "stages[1].max_loss_rise is nan"),
        ("stages.1.warmup_steps=-1", "stages[1].warmup_steps is -1; give an integer, at least 0."),
        ("stages.1.objective={name: orpo, weight: -5}", "stages[1].objective.weight is -5.0"),
        ("stages.0.bins_per_step=1", "stages[0].bins_per_step=1, but 2 workers with 1 micro-steps need"),
        ("stages.0.name=sub/stage", "stages[0].name is 'sub/stage'"),
        ("model.heads=3", "model.hidden_size=128 over heads=3 is not an even head size"),
        ("sharding.replicas=0", "sharding.replicas is 0"),
        ("max_failures=-1", "max_failures is -1"),
    ],
)
def test_an_error_of_a_recipe_names_the_full_key(override: str, start: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(TrainConfig, overrides=[override])
    assert str(caught.value).startswith(start)


@pytest.mark.parametrize(
    ("old", "new"),
    [("prompt_weight", "prompt_weight"), ("dpo_beta", "beta"), ("orpo_weight", "weight")],
)
def test_a_renamed_key_names_its_new_key(old: str, new: str) -> None:
    with pytest.raises(ConfigError, match=rf"stages\[0\]\.{old} .* was renamed: write stages\[0\]\.objective\.{new} "):
        load_config(TrainConfig, {"stages": [{old: 0.2}]})
    with pytest.raises(ConfigError, match=rf"was renamed: write stages\[1\]\.objective\.{new} "):
        load_config(TrainConfig, overrides=[f"stages.1.{old}=0.2"])


def test_an_override_sets_a_field_of_the_objective() -> None:
    config = load_config(
        TrainConfig, {"stages": [{"objective": {"name": "dpo"}}]}, overrides=["stages.0.objective.beta=0.3"]
    )
    assert config.stages[0].objective == {"name": "dpo", "beta": 0.3}
    assert load_config(TrainConfig, {"stages": [{"objective": "orpo"}]}).stages[0].objective["weight"] == 0.1
