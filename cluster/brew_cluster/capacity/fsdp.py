"""Memory and traffic of FSDP2 training on one rank in closed form: the figures of a dry run without running it.

The sharding is that of `brew_train.model.sharding`: each decoder layer is a group of its own, embeddings and head form
the root group; float32 shards, weights gathered in the compute dtype, gradients reduced in float32.
"""

from brew_cluster.capacity.decoder import Decoder
from brew_platform.errors import ConfigError
from brew_train.config import ShardingConfig, TrainConfig
from brew_train.diagnostics.dry_run_report import DryRun, Gpu
from brew_train.diagnostics.memory_tracker import Memory, Traffic

__all__ = ["estimate_run", "layer_bytes_per_token", "step_traffic"]


def estimate_run(
    config: TrainConfig,
    decoder: Decoder,
    *,
    gpus: int,
    context_length: int,
    document_length: int = 2048,
    gpu: Gpu | None = None,
) -> DryRun:
    """Return what `brew_train.diagnostics.dry_run` counts for the first stage, from formulas.

    Args:
        config: Settings of the run. Each GPU gets as many bins as one of `config.workers`.
        decoder: Sizes of the model.
        gpus: Number of GPUs.
        context_length: Tokens in a bin.
        document_length: Tokens in each document of a bin; at most `context_length`.
        gpu: The GPU to compare with; None: an H100 with 80 GB.

    Raises:
        ConfigError: `gpus` is not a multiple of the replicas.
        UserError: The shards cannot share the experts evenly.
    """
    stage, sharding = config.stages[0], config.sharding
    if gpus % sharding.replicas:
        raise ConfigError(
            f"{gpus} GPUs cannot hold {sharding.replicas} replicas of equal size (train.sharding.replicas): give a "
            f"multiple of {sharding.replicas}."
        )
    shards = gpus // sharding.replicas
    decoder.require_shards(shards)
    width = 4 if config.precision == "float32" else 2
    tokens = -(-stage.bins_per_step // (config.workers * stage.micro_steps)) * context_length
    kept, working = _activations(decoder, sharding, tokens, width)
    shard_bytes = 4 * decoder.size.total // shards
    last = step_traffic(decoder, gpus=gpus, sharding=sharding, width=width)
    micro_step = Traffic() if not sharding.reshard_after_forward else _without_all_reduce(last)
    return DryRun(
        gpus=gpus,
        replicas=sharding.replicas,
        tokens=tokens,
        micro_steps=stage.micro_steps,
        size=decoder.size,
        parameters=shard_bytes,
        padding=0,
        gradients=shard_bytes,
        optimizer=2 * shard_bytes,
        kept=kept,
        peak=Memory(
            parameters=shard_bytes,
            gradients=shard_bytes if stage.micro_steps > 1 else _growth(decoder, sharding, tokens, shards, width),
            optimizer=2 * shard_bytes,
            gathered=width * _gathered_parameters(decoder, sharding),
            reduced=_reduced_bytes(decoder, sharding, stage.micro_steps, width),
            activations=kept + working,
        ),
        micro_step=micro_step,
        step=micro_step.times(stage.micro_steps - 1) + last,
        checkpoint=3 * shard_bytes // sharding.replicas,
        flops=tokens * decoder.size.flops_per_token(min(document_length, context_length)),
        gpu=(gpu or Gpu()).in_precision(config.precision),
    )


def step_traffic(decoder: Decoder, *, gpus: int, sharding: ShardingConfig, width: int = 2) -> Traffic:
    """Return the bytes that one rank sends in a step of one micro-step, with ring algorithms.

    A ring of n ranks sends (n - 1) / n of the whole tensor in an all-gather or a reduce-scatter, and twice that in an
    all-reduce (Patarasuk & Yuan 2009, "Bandwidth optimal all-reduce algorithms"). ZeRO stage 3 gathers the weights
    for the forward and again for the backward pass, and reduces the gradients once: 1.5 times the traffic of data
    parallelism (Rajbhandari et al. 2020, arXiv:1910.02054, section 7.2.2). The last layer and the root group stay
    gathered in between. The few bytes of the router's counts are left out.

    Args:
        decoder: Sizes of the model.
        gpus: Number of ranks.
        sharding: Replicas and resharding.
        width: Bytes of a gathered element.
    """
    shards = gpus // sharding.replicas
    again = (decoder.layers - 1) * decoder.layer_parameters if sharding.reshard_after_forward else 0
    return Traffic(
        all_gather=(decoder.size.total + again) * width * (shards - 1) // shards,
        reduce_scatter=decoder.size.total * 4 * (shards - 1) // shards,
        all_reduce=2 * (4 * decoder.size.total // shards) * (sharding.replicas - 1) // sharding.replicas,
    )


def layer_bytes_per_token(decoder: Decoder, width: int = 2) -> int:
    """Return the bytes that one layer stores for its backward pass, for each token.

    Counted as in Korthikanti et al. 2022 (arXiv:2205.05198, section 4.1), for the operations of this decoder with a
    fused attention kernel: two RMSNorms (a float32 copy, the normalized values and the output of each), queries,
    attention output, keys, values; and four inner widths (gate, up, activated gate, product) for each of the k experts
    of a token. Fused experts also keep a copy of their input and their output.

    Args:
        decoder: Sizes of the model.
        width: Bytes of an element in the compute dtype.
    """
    norms = 2 * (4 + 2 * width) * decoder.hidden
    attention = 2 * width * (decoder.hidden + decoder.key_value)
    copies = 2 * decoder.hidden if decoder.matrices else 0
    return norms + attention + decoder.experts_per_token * width * (copies + 4 * decoder.inner)


def _activations(decoder: Decoder, sharding: ShardingConfig, tokens: int, width: int) -> tuple[int, int]:
    """Return the bytes that are kept for the backward pass, and those that computing one layer needs beside them.

    With activation checkpointing, only the input of each layer is kept, and one layer is computed again at a time
    (Chen et al. 2016, arXiv:1604.06174). Beside what the layer stores, there are gradients: with checkpointing, those
    of one inner width and of the layer's output; without, those of gate, up, and the experts' inputs in the last layer.
    """
    layer = layer_bytes_per_token(decoder, width)
    # the last layer's output, the last norm, and the gradient of its output, which the loss computes at once
    root = (4 + 4 * width) * decoder.hidden
    routed = decoder.experts_per_token
    if sharding.activation_checkpointing:
        gradients = width * (routed * decoder.inner + decoder.hidden)
        return tokens * (decoder.layers * width * decoder.hidden + root), tokens * (layer + gradients)
    gradients = width * (routed * (2 * decoder.inner + decoder.hidden) + decoder.hidden)
    return tokens * (decoder.layers * layer + root), tokens * gradients


def _growth(decoder: Decoder, sharding: ShardingConfig, tokens: int, shards: int, width: int) -> int:
    """Return the bytes by which the gradient shards of a backward pass exceed the activations that it frees."""
    freed = width * decoder.hidden if sharding.activation_checkpointing else layer_bytes_per_token(decoder, width)
    return max(0, 4 * decoder.layer_parameters // shards - tokens * freed) * (decoder.layers - 1)


def _gathered_parameters(decoder: Decoder, sharding: ShardingConfig) -> int:
    """Return the parameters that are gathered at the peak: the root, a layer, and the one that is fetched ahead."""
    if not sharding.reshard_after_forward:
        return decoder.size.total
    return decoder.root_parameters + min(2, decoder.layers) * decoder.layer_parameters


def _reduced_bytes(decoder: Decoder, sharding: ShardingConfig, micro_steps: int, width: int) -> int:
    """Return the bytes of whole gradients at the peak.

    With activation checkpointing, the peak is in a layer whose successor's gradients are being reduced, in float32.
    Without, it is in the last layer, where only the head has gradients yet.
    """
    if not sharding.reshard_after_forward and micro_steps > 1:
        return 4 * decoder.size.total
    layer = 4 * decoder.layer_parameters if sharding.activation_checkpointing else 0
    return layer + width * decoder.head_parameters


def _without_all_reduce(traffic: Traffic) -> Traffic:
    return Traffic(all_gather=traffic.all_gather, reduce_scatter=traffic.reduce_scatter)
