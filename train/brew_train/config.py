"""Settings of a training run: model, sharding, stages and fault tolerance.

Lengths are in tokens, sizes in elements, `steps` counts optimizer steps.
"""

import sys
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from brew_platform.errors import ConfigError
from brew_train.objectives.base import resolve_objective

__all__ = [
    "EXPORT_DTYPES",
    "PRECISIONS",
    "SCHEDULES",
    "ModelConfig",
    "ModelShape",
    "ShardingConfig",
    "StageConfig",
    "TrainConfig",
]

EXPORT_DTYPES = ("auto", "float32", "bfloat16")
PRECISIONS = ("auto", "float32", "bfloat16")
SCHEDULES = ("schedule_free", "cosine", "constant")
FINITE = sys.float_info.max
RANGES = MappingProxyType(  # of numbers of a stage, both ends included
    {
        "learning_rate": (0.0, FINITE),
        "final_learning_rate": (0.0, 1.0),
        "decay_share": (0.0, 1.0),
        "warmup_steps": (0, FINITE),
        "beta2": (0.0, 1.0 - 1e-9),
        "weight_decay": (0.0, FINITE),
        "max_grad_norm": (1e-9, FINITE),
        "max_loss_rise": (-FINITE, FINITE),
        "max_skipped": (0, FINITE),
        "evaluate_every": (0, FINITE),
    }
)


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Sizes of the model that the data determine.

    Args:
        vocabulary_size: number of token ids of the tokenizer.
        context_length: maximum number of tokens in a document.
        control_ids: tokens with a role in a chat; a base model whose rows for them are zero gets new ones.
    """

    vocabulary_size: int
    context_length: int
    control_ids: tuple[int, ...] = ()


@dataclass(kw_only=True)
class ModelConfig:
    """The decoder to train: a Mixtral (mixture of experts) from scratch, or the causal LM in `init_from`.

    The defaults have about 2 million parameters with a vocabulary of 2,500, and train on two CPU cores in minutes.

    Raises:
        ConfigError: a size is out of range, or two sizes contradict each other.
    """

    hidden_size: int = 128  # width of the residual stream; a multiple of twice `heads`
    intermediate_size: int = 256  # inner width of one expert; several experts are active per token
    layers: int = 4  # decoder layers
    heads: int = 4  # query heads; 32 dimensions each
    kv_heads: int = 2  # key and value heads, each shared by heads / kv_heads query heads; 2 of 4 halve the KV cache
    experts: int = 4  # feed-forward experts per layer
    experts_per_token: int = 2  # experts that each token is routed to (Mixtral uses 2)
    rope_theta: float = 1e6  # base of the rotary frequencies, as in Mixtral; large, so that distant tokens can match
    initializer_range: float = 0.06  # sd of the initial weights; about 1/sqrt(hidden_size), .02 for 2,000 and more
    tie_embeddings: bool = True  # one matrix for input and output; at this size two would be half of the model
    router_aux_loss: float = 0.01  # weight of the load-balancing loss (Switch Transformer §2.2); 0 disables it
    init_from: str | None = None  # Hugging Face causal-LM folder to start from; the sizes above are then ignored
    train_embeddings: bool = True  # false: the embeddings and the head of `init_from` stay as they are; less work
    vocabulary_multiple: int = 64  # a base model that gains tokens gets a multiple of this of rows, 1 to 4,096

    def __post_init__(self) -> None:
        if not 1 <= self.vocabulary_multiple <= 4096:
            raise ConfigError(
                f"model.vocabulary_multiple is {self.vocabulary_multiple}; set it to a number from 1 to 4096."
            )
        if self.init_from is not None:
            return
        if not self.train_embeddings:
            raise ConfigError(
                "model.train_embeddings=false, but the model starts from scratch, so its embeddings would stay random: "
                "set it to true, or start from a model with model.init_from."
            )
        for name in ("hidden_size", "intermediate_size", "layers", "heads", "kv_heads", "experts", "experts_per_token"):
            if getattr(self, name) < 1:
                raise ConfigError(f"model.{name} is {getattr(self, name)}: it must be at least 1.")
        if self.hidden_size % (2 * self.heads):
            raise ConfigError(
                f"model.hidden_size={self.hidden_size} over model.heads={self.heads} is not an even head size, which "
                f"rotary positions need; choose hidden_size as a multiple of {2 * self.heads}."
            )
        if self.heads % self.kv_heads:
            raise ConfigError(
                f"model.heads={self.heads} is not a multiple of model.kv_heads={self.kv_heads}: every key head is "
                f"shared by the same number of query heads; choose a divisor of {self.heads}."
            )
        if self.experts_per_token > self.experts:
            raise ConfigError(
                f"model.experts_per_token={self.experts_per_token} is more than model.experts={self.experts}; lower "
                f"experts_per_token or raise experts."
            )


@dataclass(kw_only=True)
class ShardingConfig:
    """Sharding of the model over the workers by FSDP2, and its trade-offs between memory and speed.

    Raises:
        ConfigError: fewer than one replica.
    """

    replicas: int = 1  # copies of the model (HSDP), each sharded over workers / replicas; 1: FSDP
    reshard_after_forward: bool = False  # free gathered weights between forward and backward; slower, needs less memory
    activation_checkpointing: bool = False  # keep only the input of each layer, and repeat its forward in backward
    compile: bool = False  # torch.compile the decoder layers, without attention and, on CPU, without fused experts

    def __post_init__(self) -> None:
        if self.replicas < 1:
            raise ConfigError(f"train.sharding.replicas is {self.replicas}: it must be at least 1.")


@dataclass(kw_only=True)
class StageConfig:
    """One stage of training. The next stage starts from its averaged weights, with a new optimizer.

    Raises:
        ConfigError: a value is out of range.
    """

    RENAMED = MappingProxyType(  # old key -> new key; load_config refuses the old keys and names the new ones
        {"prompt_weight": "objective.prompt_weight", "dpo_beta": "objective.beta", "orpo_weight": "objective.weight"}
    )
    name: str = "cpt"  # names the stage in metrics, checkpoints and the `bins` mapping
    objective: Any = "next_token"  # name of an objective, or its name and settings: {name: dpo, beta: 0.1}
    steps: int = 100  # optimizer steps
    bins_per_step: int = 8  # bins in one step over all workers and micro-steps; each needs at least one
    micro_steps: int = 1  # forward-backward passes per step; more passes need less memory
    schedule: str = "schedule_free"  # schedule_free, or AdamW with cosine or constant (360Brew §5 compares the three)
    learning_rate: float = 5e-3  # learning rate after the warm-up; schedule-free needs no decay
    final_learning_rate: float = 0.1  # cosine and constant: learning rate of the last step, as a share of learning_rate
    decay_share: float = 0.2  # constant: share of the steps, at the end, in which the learning rate falls linearly
    warmup_steps: int = 20  # steps of linear warm-up; Adam's second moments are noisy before
    beta1: float = 0.9  # schedule-free: interpolation between the average x (1) and the iterate z (0); else Adam's β1
    beta2: float = 0.95  # decay of the second moments; less than Adam's 0.999, because the demo's runs are short
    weight_decay: float = 0.05  # decoupled, on matrices only: norm gains are not decayed
    max_grad_norm: float = 1.0  # gradients with a larger global norm are scaled down to this norm
    max_loss_rise: float = 5.0  # nats; a loss that exceeds its running mean by more counts as exploding
    on_bad_step: str = "stop"  # a loss or gradient is not finite, or the loss explodes: stop, or skip the step
    max_skipped: int = 10  # number of skipped steps in a row after which the run stops
    evaluate_every: int = 0  # steps between evaluations of the averaged weights on the evaluation bins; 0: never

    def __post_init__(self) -> None:
        for name in ("steps", "bins_per_step", "micro_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"stage {self.name} has {name}={getattr(self, name)}: give at least 1.")
        for name, known in (
            ("schedule", SCHEDULES),
            ("on_bad_step", ("stop", "skip")),
        ):
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"stage {self.name} has {name}={getattr(self, name)}, which is unknown: use {' or '.join(known)}."
                )
        try:
            self.objective = resolve_objective(self.objective)
        except ConfigError as error:
            raise ConfigError(f"stage {self.name}: {error}") from error
        if not 0.0 < self.beta1 < 1.0:
            raise ConfigError(
                f"stage {self.name} has beta1={self.beta1}: schedule-free averaging needs a value between 0 and 1, "
                f"for example 0.9."
            )
        for name, (lowest, highest) in RANGES.items():
            value = getattr(self, name)
            if not lowest <= value <= highest:  # false for NaN
                limits = f"at least {lowest:g}" if highest == FINITE else f"between {lowest:g} and {highest:g}"
                raise ConfigError(f"stage {self.name} has {name}={value}: give a finite number, {limits}.")


@dataclass(kw_only=True)
class TrainConfig:
    """Settings of a run. `stages` run in order; a restart continues from the newest intact checkpoint.

    Raises:
        ConfigError: a value is out of range, or two settings contradict each other.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    sharding: ShardingConfig = field(default_factory=ShardingConfig)
    stages: list[StageConfig] = field(
        default_factory=lambda: [
            StageConfig(name="cpt"),
            StageConfig(name="sft", objective={"name": "next_token", "prompt_weight": 0.01}),
        ]
    )
    workers: int = 2  # processes that share the model by FSDP2, each with `threads` CPU cores or one GPU
    threads: int = 1  # CPU cores of each worker; one worker of a large model saves the communication of the weights
    min_workers: int | None = None  # elastic: least number of workers while nodes are missing; null: not elastic
    seed: int = 0  # seed of the initial weights, the order of bins, and the random numbers of each step
    checkpoint_every: int = 50  # steps between checkpoints; at most so many are repeated after a lost worker
    keep_checkpoints: int = 3  # number of newest checkpoints to keep; older ones replace a damaged one
    export_best: bool = True  # if a stage evaluates: also keep and export the checkpoint with the lowest loss
    export_dtype: str = "auto"  # of exported weights: auto (the base model's; float32 from scratch), float32, bfloat16
    precision: str = (
        "auto"  # of forward and backward passes: float32, bfloat16, or auto (bfloat16 on a GPU, else float32)
    )
    max_failures: int = 2  # restarts after a lost worker

    def __post_init__(self) -> None:
        for name in ("workers", "threads", "checkpoint_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ConfigError(f"train.{name} is {getattr(self, name)}: it must be at least 1.")
        if self.min_workers is not None and not 1 <= self.min_workers <= self.workers:
            raise ConfigError(
                f"train.min_workers is {self.min_workers}: it must be between 1 and train.workers={self.workers}."
            )
        if self.workers % self.sharding.replicas:
            raise ConfigError(
                f"train.workers={self.workers} is not a multiple of train.sharding.replicas={self.sharding.replicas}: "
                f"every copy of the model needs the same number of workers."
            )
        for name, known in (("export_dtype", EXPORT_DTYPES), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise ConfigError(f"train.{name} is {getattr(self, name)!r}: it is one of {', '.join(known)}.")
        if not self.stages:
            raise ConfigError("train.stages is empty, so nothing would be trained: give at least one stage.")
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ConfigError(f"train.stages are named {names}: each stage needs a unique name; rename one.")
        for stage in self.stages:
            if stage.bins_per_step < self.workers * stage.micro_steps:
                raise ConfigError(
                    f"stage {stage.name} has bins_per_step={stage.bins_per_step}, but {self.workers} workers with "
                    f"{stage.micro_steps} micro-steps need at least one bin each: give "
                    f"{self.workers * stage.micro_steps} or more, or fewer workers."
                )
