"""Settings of a training run: model, sharding, stages and fault tolerance.

Lengths are in tokens, sizes in elements, `steps` counts optimizer steps.
"""

from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from brew_platform.errors import ConfigError
from brew_platform.settings import (
    Name,
    NonNegativeFloat,
    NonNegativeInt,
    OneOf,
    PositiveFloat,
    PositiveInt,
    Range,
    Settings,
    Share,
)
from brew_train.objectives.config import resolve_objective

__all__ = [
    "EXPORT_DTYPES",
    "PRECISIONS",
    "SCHEDULES",
    "InputsConfig",
    "ModelConfig",
    "ModelShape",
    "ShardingConfig",
    "StageConfig",
    "TrainConfig",
]

EXPORT_DTYPES = ("auto", "float32", "bfloat16")
PRECISIONS = ("auto", "float32", "bfloat16")
SCHEDULES = ("schedule_free", "cosine", "constant")
ON_BAD_STEP = ("stop", "skip")


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
class ModelConfig(Settings):
    """The decoder to train: a Mixtral (mixture of experts) from scratch, or the causal LM in `init_from`.

    The defaults have about 2 million parameters with a vocabulary of 2,500, and train on two CPU cores in minutes.

    Raises:
        ConfigError: a size is out of range, or two sizes contradict each other.
    """

    hidden_size: PositiveInt = 128  # width of the residual stream; a multiple of twice `heads`
    intermediate_size: PositiveInt = 256  # inner width of one expert; several experts are active per token
    layers: PositiveInt = 4  # decoder layers
    heads: PositiveInt = 4  # query heads; 32 dimensions each
    # Key and value heads, each shared by heads / kv_heads query heads; 2 of 4 halve the KV cache.
    kv_heads: PositiveInt = 2
    experts: PositiveInt = 4  # feed-forward experts per layer
    experts_per_token: PositiveInt = 2  # experts that each token is routed to (Mixtral uses 2)
    # Base of the rotary frequencies, as in Mixtral; large, so that distant tokens can match.
    rope_theta: PositiveFloat = 1e6
    # Standard deviation of the initial weights; about 1/sqrt(hidden_size), .02 for 2,000 and more.
    initializer_range: PositiveFloat = 0.06
    # Key heads start as copies of query heads: tokens first attend to tokens like themselves, and a small model learns
    # with fewer tokens what two texts have in common.
    similar_attention: bool = False
    tie_embeddings: bool = True  # one matrix for input and output; at this size two would be half of the model
    # Weight of the load-balancing loss (Switch Transformer §2.2); 0 disables it.
    router_aux_loss: NonNegativeFloat = 0.01
    init_from: str | None = None  # Hugging Face causal-LM folder to start from; the sizes above are then ignored
    train_embeddings: bool = True  # false: the embeddings and the head of `init_from` stay as they are; less work
    # A base model that gains tokens gets a multiple of this of rows.
    vocabulary_multiple: Annotated[int, Range(ge=1, le=4_096)] = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init_from is not None:
            return
        if not self.train_embeddings:
            raise ConfigError(
                "train_embeddings=false, but the model starts from scratch, so its embeddings would stay random: "
                "set it to true, or start from a model with init_from."
            )
        if self.hidden_size % (2 * self.heads):
            raise ConfigError(
                f"hidden_size={self.hidden_size} over heads={self.heads} is not an even head size, which "
                f"rotary positions need; choose hidden_size as a multiple of {2 * self.heads}."
            )
        if self.heads % self.kv_heads:
            raise ConfigError(
                f"heads={self.heads} is not a multiple of kv_heads={self.kv_heads}: every key head is shared "
                f"by the same number of query heads; choose a divisor of {self.heads}."
            )
        if self.experts_per_token > self.experts:
            raise ConfigError(
                f"experts_per_token={self.experts_per_token} is more than experts={self.experts}; lower it, or raise "
                f"experts."
            )


@dataclass(kw_only=True)
class ShardingConfig(Settings):
    """Sharding of the model over the workers by FSDP2, and its trade-offs between memory and speed."""

    replicas: PositiveInt = 1  # copies of the model (HSDP), each sharded over workers / replicas; 1: FSDP
    reshard_after_forward: bool = False  # free gathered weights between forward and backward; slower, needs less memory
    activation_checkpointing: bool = False  # keep only the input of each layer, and repeat its forward in backward
    compile: bool = False  # torch.compile the decoder layers, without attention and, on CPU, without fused experts


@dataclass(kw_only=True)
class InputsConfig(Settings):
    """How workers read bins.

    Raises:
        ConfigError: a value is out of range, or `cache_folder` is a relative path.
    """

    # Of each worker, for bins that its background thread reads ahead; those of the next step in any case.
    prefetch_bytes: Annotated[int, Range(ge=0, le=2**40)] = 64 * 2**20
    # Folder on a disk of each host, for copies of files on S3; all its workers and runs share them.
    cache_folder: str = "~/.cache/brew360/bins"
    # Of these copies; those that were not read for the longest time are deleted first.
    cache_bytes: Annotated[int, Range(ge=1, le=2**60)] = 100 * 2**30

    def __post_init__(self) -> None:
        super().__post_init__()
        if not Path(self.cache_folder).expanduser().is_absolute():
            raise ConfigError(
                f"cache_folder is {self.cache_folder!r}, a relative path, but workers run in other folders: give an "
                f"absolute path, or one that starts with ~."
            )


@dataclass(kw_only=True)
class StageConfig(Settings):
    """One stage of training. The next stage starts from its averaged weights, with a new optimizer.

    Raises:
        ConfigError: a value is out of range.
    """

    RENAMED = MappingProxyType(  # old key -> new key; load_config refuses the old keys and names the new ones
        {"prompt_weight": "objective.prompt_weight", "dpo_beta": "objective.beta", "orpo_weight": "objective.weight"}
    )
    name: Name = "cpt"  # names the stage in metrics, checkpoints and the `bins` mapping
    objective: Any = "next_token"  # name of an objective, or its name and settings: {name: dpo, beta: 0.1}
    steps: PositiveInt = 100  # optimizer steps
    bins_per_step: PositiveInt = 8  # bins in one step over all workers and micro-steps; each needs at least one
    micro_steps: PositiveInt = 1  # forward-backward passes per step; more passes need less memory
    # schedule_free, or AdamW with cosine or constant (360Brew §5 compares the three).
    schedule: Annotated[str, OneOf(SCHEDULES)] = "schedule_free"
    learning_rate: NonNegativeFloat = 5e-3  # learning rate after the warm-up; schedule-free needs no decay
    final_learning_rate: Share = 0.1  # cosine and constant: learning rate of the last step, as a share of learning_rate
    decay_share: Share = 0.2  # constant: share of the steps, at the end, in which the learning rate falls linearly
    warmup_steps: NonNegativeInt = 20  # steps of linear warm-up; Adam's second moments are noisy before
    # Schedule-free: interpolation between the average x (1) and the iterate z (0); else Adam's β1.
    beta1: Annotated[float, Range(gt=0, lt=1)] = 0.9
    # Decay of the second moments; less than Adam's 0.999, because the demo's runs are short.
    beta2: Annotated[float, Range(ge=0, lt=1)] = 0.95
    weight_decay: NonNegativeFloat = 0.05  # decoupled, on matrices only: norm gains are not decayed
    max_grad_norm: PositiveFloat = 1.0  # gradients with a larger global norm are scaled down to this norm
    max_loss_rise: PositiveFloat = 5.0  # nats; a loss that exceeds its running mean by more counts as exploding
    # A loss or gradient is not finite, or the loss explodes: stop, or skip the step.
    on_bad_step: Annotated[str, OneOf(ON_BAD_STEP)] = "stop"
    max_skipped: NonNegativeInt = 10  # number of skipped steps in a row after which the run stops
    # Steps between evaluations of the averaged weights on the evaluation bins; 0: never.
    evaluate_every: NonNegativeInt = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.objective = resolve_objective(self.objective)


@dataclass(kw_only=True)
class TrainConfig(Settings):
    """Settings of a run. `stages` run in order; a restart continues from the newest intact checkpoint.

    Raises:
        ConfigError: a value is out of range, or two settings contradict each other.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    sharding: ShardingConfig = field(default_factory=ShardingConfig)
    inputs: InputsConfig = field(default_factory=InputsConfig)
    stages: list[StageConfig] = field(
        default_factory=lambda: [
            StageConfig(name="cpt"),
            StageConfig(name="sft", objective={"name": "next_token", "prompt_weight": 0.01}),
        ]
    )
    workers: PositiveInt = 2  # processes that share the model by FSDP2, each with `threads` CPU cores or one GPU
    # CPU cores of each worker; one worker of a large model saves the communication of the weights.
    threads: Annotated[int, Range(ge=1, le=4_096)] = 1
    # Elastic: least number of workers while nodes are missing; null: not elastic.
    min_workers: PositiveInt | None = None
    seed: NonNegativeInt = 0  # seed of the initial weights, the order of bins, and the random numbers of each step
    checkpoint_every: PositiveInt = 50  # steps between checkpoints; at most so many are repeated after a lost worker
    keep_checkpoints: PositiveInt = 3  # number of newest checkpoints to keep; older ones replace a damaged one
    # s3://bucket/run or file:///folder: complete checkpoints are copied there, and a run folder without checkpoints
    # is restored from there. Each run needs its own.
    mirror_url: str | None = None
    export_best: bool = True  # if a stage evaluates: also keep and export the checkpoint with the lowest loss
    # Of exported weights: auto (the base model's; float32 from scratch), float32, bfloat16.
    export_dtype: Annotated[str, OneOf(EXPORT_DTYPES)] = "auto"
    # Of forward and backward passes: float32, bfloat16, or auto (bfloat16 on a GPU, else float32).
    precision: Annotated[str, OneOf(PRECISIONS)] = "auto"
    max_failures: NonNegativeInt = 2  # restarts after a lost worker
    # Ray labels of the nodes that run workers, such as brew360/role: train; empty: any node.
    node_labels: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ConfigError(f"min_workers is {self.min_workers}; give at most the number of workers, {self.workers}.")
        if self.workers % self.sharding.replicas:
            raise ConfigError(
                f"workers={self.workers} is not a multiple of sharding.replicas={self.sharding.replicas}: "
                f"every copy of the model needs the same number of workers."
            )
        if self.mirror_url is not None and "://" not in self.mirror_url:
            raise ConfigError(
                f"mirror_url is {self.mirror_url!r}, which each worker would look for in its own folder: give "
                f"s3://bucket/run, or file:/// and an absolute path."
            )
        if not self.stages:
            raise ConfigError("stages is empty, so nothing would be trained: give at least one stage.")
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ConfigError(f"stages are named {names}: each stage needs a unique name; rename one.")
        for index, stage in enumerate(self.stages):
            if stage.bins_per_step < self.workers * stage.micro_steps:
                raise ConfigError(
                    f"stages[{index}].bins_per_step={stage.bins_per_step}, but {self.workers} workers with "
                    f"{stage.micro_steps} micro-steps need at least one bin each: give "
                    f"{self.workers * stage.micro_steps} or more, or fewer workers."
                )
