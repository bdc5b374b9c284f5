"""Settings that contradict each other are refused at construction."""

import math
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
        (lambda: TrainConfig(workers=0), "train.workers is 0"),
        (lambda: TrainConfig(threads=0), "train.threads is 0"),
        (
            lambda: TrainConfig(precision="float16"),
            "train.precision is 'float16': it is one of auto, float32, bfloat16",
        ),
        (lambda: TrainConfig(stages=[]), "nothing would be trained"),
        (lambda: TrainConfig(stages=[StageConfig(), StageConfig()]), "needs a unique name"),
        (lambda: TrainConfig(checkpoint_every=0), "must be at least 1"),
        (lambda: TrainConfig(workers=2, min_workers=3), "between 1 and train.workers=2"),
        (lambda: TrainConfig(workers=3, sharding=ShardingConfig(replicas=2)), "not a multiple of train.sharding.repl"),
        (lambda: ShardingConfig(replicas=0), "at least 1"),
        (lambda: StageConfig(steps=0), "steps=0"),
        (lambda: StageConfig(objective="ppo"), "stage cpt: .*one of dpo, next_token, orpo"),
        (lambda: StageConfig(schedule="linear"), "use schedule_free or cosine or constant"),
        (lambda: StageConfig(on_bad_step="ignore"), "use stop or skip"),
        (lambda: StageConfig(objective={"name": "next_token", "prompt_weight": 1.5}), "stage cpt: .*between 0 and 1"),
        (lambda: StageConfig(beta1=0.0), r"for example 0\.9"),
        (
            lambda: StageConfig(decay_share=1.5),
            r"stage cpt has decay_share=1\.5: give a finite number, between 0 and 1",
        ),
        (lambda: StageConfig(final_learning_rate=-0.1), r"final_learning_rate=-0\.1: .*between 0 and 1"),
        (lambda: StageConfig(learning_rate=math.nan), "learning_rate=nan: give a finite number, at least 0"),
        (lambda: StageConfig(learning_rate=math.inf), "learning_rate=inf"),
        (lambda: StageConfig(warmup_steps=-1), "warmup_steps=-1: give a finite number, at least 0"),
        (lambda: StageConfig(beta2=1.0), "beta2=1.0"),
        (lambda: StageConfig(weight_decay=-0.1), "weight_decay=-0.1"),
        (lambda: StageConfig(max_grad_norm=-1.0), "max_grad_norm=-1.0: give a finite number, at least 1e-09"),
        (lambda: StageConfig(max_loss_rise=math.nan), "max_loss_rise=nan"),
        (lambda: StageConfig(max_skipped=-1), "max_skipped=-1"),
        (lambda: StageConfig(evaluate_every=-1), "evaluate_every=-1"),
        (lambda: ModelConfig(train_embeddings=False), "starts from scratch, so its embeddings would stay random"),
        (lambda: ModelConfig(layers=0), "model.layers is 0"),
        (lambda: ModelConfig(hidden_size=30, heads=4), "a multiple of 8"),
        (lambda: ModelConfig(heads=4, kv_heads=3), "a divisor of 4"),
        (lambda: ModelConfig(experts=2, experts_per_token=3), "lower"),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        make()


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
