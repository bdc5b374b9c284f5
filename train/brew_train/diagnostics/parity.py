"""Compares the results of a device with float32 references: attention, loss, whole steps and a restored checkpoint.

All inputs are drawn on the CPU from fixed seeds, so they are the same on every machine.
Legend: T packed tokens, H query heads, G key/value heads, D head size, W hidden width, V vocabulary.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from brew_train.checkpoints.checkpointer import Checkpointer
from brew_train.config import ModelConfig, ModelShape, ShardingConfig, StageConfig
from brew_train.distributed.context import DistributedContext
from brew_train.inputs.batches import Bin, collate
from brew_train.model.attention import varlen_attention
from brew_train.model.init_weights import materialize
from brew_train.model.model import RankingLM, build_model
from brew_train.model.sharding import shard
from brew_train.objectives.fused_losses import NO_TARGET, fused_cross_entropy, token_log_probabilities, token_weights
from brew_train.optim.base import Optimizer
from brew_train.optim.factory import make_optimizer
from brew_train.step import take_step

__all__ = ["Check", "Scale", "check_attention", "check_loss", "check_restore", "check_steps", "counting_bin"]

LIMITS = {torch.float32: 1e-4, torch.bfloat16: 2e-2}  # relative; bfloat16 has 8 bits, so a rounding is up to 4e-3


@dataclass(frozen=True, kw_only=True)
class Check:
    """Result of one comparison with a reference."""

    name: str
    error: float  # largest |actual - expected| / |expected| of the compared tensors (Euclidean norm)
    limit: float  # largest error that passes

    @property
    def passed(self) -> bool:
        """Whether the error is within the limit."""
        return self.error <= self.limit  # False for a NaN


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Sizes of the inputs."""

    tokens: int  # tokens in a packed row
    longest: int  # tokens in the longest document
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int


def check_attention(
    scale: Scale, device: torch.device, dtype: torch.dtype, *, sliding_window: int | None = None, slates: bool = False
) -> Check:
    """Compares attention over packed documents, forward and backward, with attention over each document in float32.

    Args:
        scale: sizes of the inputs.
        device: the device to check.
        dtype: dtype of the checked attention.
        sliding_window: tokens that each token attends to, itself included; None: all tokens before it.
        slates: whether documents are slates of two candidates, where they are long enough.
    """
    generator = torch.Generator().manual_seed(0)
    packed = _row(document_lengths(scale.tokens, longest=scale.longest, seed=0), slates=slates)
    batch = collate([packed]).to(device)
    shapes = [(1, heads, scale.tokens, scale.head_size) for heads in (scale.heads, scale.kv_heads, scale.kv_heads)]
    drawn = [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]
    upstream = torch.randn(1, scale.tokens, scale.heads, scale.head_size, generator=generator).to(device, dtype)

    query, key, value = packed_inputs = [x.clone().requires_grad_() for x in drawn]
    out, _ = varlen_attention(
        nn.Module(),
        query,
        key,
        value,
        None,
        sliding_window=sliding_window,
        cu_seq_lens_q=batch.cu_seqlens,
        max_length_q=batch.max_length,
        cu_seq_lens_k=batch.cu_seqlens_k,
        max_length_k=batch.max_length_k,
        key_places=batch.key_places_K,
    )

    reference_inputs = [x.float().requires_grad_() for x in drawn]
    shared = scale.heads // scale.kv_heads
    with sdpa_kernel(SDPBackend.MATH):
        segments = []
        for query_places, key_places in _places(packed, device):
            q, k, v = (
                x[:, :, places]
                for x, places in zip(reference_inputs, (query_places, key_places, key_places), strict=True)
            )
            k, v = (x.repeat_interleave(shared, dim=1) for x in (k, v))
            visible = _visible(len(query_places), len(key_places), sliding_window or len(key_places), device)
            segments.append(F.scaled_dot_product_attention(q, k, v, attn_mask=visible))
        expected = torch.cat(segments, dim=2).transpose(1, 2)
        expected_gradients = torch.autograd.grad(expected, reference_inputs, upstream.float())
    gradients = torch.autograd.grad(out, packed_inputs, upstream)
    error = max(distance(a, b) for a, b in zip((out, *gradients), (expected, *expected_gradients), strict=True))
    name = f"packed attention{' of slates' * slates}{'' if sliding_window is None else ' in a window'}"
    return Check(name=name, error=error, limit=LIMITS[dtype])


def _row(lengths: Sequence[int], *, slates: bool) -> Bin:
    """Returns a bin of documents with these lengths. A slate has a prefix of half of its tokens, and two candidates.

    The second candidate attends to the whole prefix, the first one to half of it.
    """
    segments: list[tuple[int, int]] = []
    for length in lengths:
        prefix, first = length // 2, length // 4
        if slates and length >= 8:
            segments += [(prefix, 0), (first, prefix // 2), (length - prefix - first, prefix)]
        else:
            segments.append((length, 0))
    tokens = sum(lengths)
    return Bin(
        input_ids=np.zeros(tokens, np.int32),
        doc_lengths=np.array(lengths, np.int32),
        roles=np.zeros(tokens, np.uint8),
        segment_lengths=np.array([length for length, _ in segments], np.int32),
        segment_prefixes=np.array([prefix for _, prefix in segments], np.int32),
    )


def _places(packed: Bin, device: torch.device) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yields the places of the queries and of the keys of each segment in the row."""
    start = document = 0
    for length, prefix in zip(packed.segment_lengths.tolist(), packed.segment_prefixes.tolist(), strict=True):
        document = document if prefix else start
        queries = torch.arange(start, start + length, device=device)
        yield queries, torch.cat([torch.arange(document, document + prefix, device=device), queries])
        start += length


def _visible(queries: int, keys: int, window: int, device: torch.device) -> torch.Tensor:
    """The mask of a segment, bool [queries, keys]: a row has the tokens that its token attends to."""
    places_Q1 = torch.arange(keys - queries, keys, device=device).unsqueeze(1)
    distance_QK = places_Q1 - torch.arange(keys, device=device)
    return (distance_QK >= 0) & (distance_QK < window)


def check_loss(scale: Scale, device: torch.device, dtype: torch.dtype, *, liger: bool) -> Check:
    """Compares the fused loss and its gradients with a loss from the logits of the whole row in float32.

    Args:
        scale: sizes of the inputs.
        device: the device to check.
        dtype: dtype of the checked loss.
        liger: whether to check Liger's kernels instead of PyTorch.
    """
    generator = torch.Generator().manual_seed(1)
    width = scale.heads * scale.head_size
    hidden_TW = torch.randn(scale.tokens, width, generator=generator).to(device, dtype)
    head_VW = (torch.randn(scale.vocabulary, width, generator=generator) * width**-0.5).to(device, dtype)
    targets_T = torch.randint(scale.vocabulary, (scale.tokens,), generator=generator)
    targets_T[::7] = NO_TARGET
    roles_T = (torch.arange(scale.tokens) % 5 == 0).to(torch.uint8).to(device)
    targets_T = targets_T.to(device)
    counts_2 = torch.stack([((targets_T != NO_TARGET) & (roles_T == role)).sum() for role in (0, 1)])
    weights_T = token_weights(roles_T, targets_T, counts_2, 0.01)

    hidden, head = fused_inputs = [x.clone().requires_grad_() for x in (hidden_TW, head_VW)]
    loss, losses_T = fused_cross_entropy(hidden, head, targets_T, weights_T, liger=liger)
    logp_T = token_log_probabilities(hidden, head, targets_T, liger=liger)
    actual = [
        *(loss, losses_T, -logp_T),
        *torch.autograd.grad(loss, fused_inputs),
        *torch.autograd.grad((-logp_T * weights_T).sum(), fused_inputs),
    ]

    hidden, head = reference_inputs = [x.float().requires_grad_() for x in (hidden_TW, head_VW)]
    reference_T = F.cross_entropy(hidden @ head.T, targets_T, ignore_index=NO_TARGET, reduction="none")
    reference_loss = (reference_T * weights_T).sum()
    gradients = torch.autograd.grad(reference_loss, reference_inputs)
    expected = [reference_loss, reference_T, reference_T, *gradients, *gradients]
    error = max(distance(a, b) for a, b in zip(actual, expected, strict=True))
    name = f"fused loss, {'Liger' if liger else 'PyTorch'}"
    return Check(name=name, error=error, limit=LIMITS[dtype])


def check_steps(scale: Scale, context: DistributedContext) -> Check:
    """Compares losses and gradient norms of three steps in `context` with float32 on the CPU."""
    cpu = DistributedContext(device=torch.device("cpu"))
    runs = _Run(scale, context), _Run(scale, cpu)
    actual, expected = (torch.tensor([run.step(number) for number in range(3)]) for run in runs)
    limit = LIMITS[torch.bfloat16 if context.device.type == "cuda" else torch.float32]
    return Check(name="three steps against float32", error=distance(actual, expected), limit=limit)


def check_restore(scale: Scale, context: DistributedContext) -> Check:
    """Compares weights and optimizer state that are restored from a checkpoint with the original, bitwise.

    The first run continues training while the checkpoint is written. The error is the number of differing tensors.
    """
    first, second = (_Run(scale, context, seed=seed) for seed in (0, 1))
    first.step(0)
    expected = {name: tensor.clone() for name, tensor in first.optimizer.tensors().items()}
    with tempfile.TemporaryDirectory() as folder, Checkpointer(Path(folder), keep=1, context=context) as checkpointer:
        checkpointer.begin(first.optimizer.tensors(), {}, step=1, ledger=())
        first.step(1)
        checkpointer.wait()
        checkpoint = checkpointer.newest()
        assert checkpoint is not None
        restored = second.optimizer.tensors()
        checkpointer.read(checkpoint, restored)
    errors = [0.0 if torch.equal(restored[name], tensor) else 1.0 for name, tensor in expected.items()]
    return Check(name="a checkpoint restored, tensors wrong", error=sum(errors), limit=0.0)


class _Run:
    """A small model in training."""

    def __init__(self, scale: Scale, context: DistributedContext, *, seed: int = 0) -> None:
        size = 4 * scale.head_size
        model = ModelConfig(hidden_size=size, intermediate_size=size, layers=2, heads=4, kv_heads=2)
        self._stage = StageConfig(name="parity", steps=3, bins_per_step=2, warmup_steps=1, learning_rate=1e-3)
        self._bins = [counting_bin(scale.longest, vocabulary=scale.vocabulary, seed=number) for number in range(6)]
        self._context = context
        self._lm: RankingLM = build_model(
            model, ModelShape(vocabulary_size=scale.vocabulary, context_length=scale.longest)
        )
        shard(self._lm, context, ShardingConfig())
        materialize(self._lm, model, context, seed=seed)
        self._lm.train()
        self.optimizer: Optimizer = make_optimizer(self._lm, self._stage)

    def step(self, number: int) -> tuple[float | None, float | None]:
        """Runs the step with this number, from 0, and returns its loss and gradient norm."""
        ids = np.arange(2 * number, 2 * number + 2)
        result = take_step(
            self._lm, self.optimizer, self._stage, self._bins, ids, self._context, sharding=ShardingConfig()
        )
        return result.loss, result.grad_norm


def document_lengths(tokens: int, *, longest: int, seed: int) -> list[int]:
    """Returns lengths of documents with a log-normal distribution, which add up to `tokens`.

    Args:
        tokens: sum of the lengths.
        longest: upper limit of a length.
        seed: seed of the random lengths.
    """
    random = np.random.default_rng(seed)
    lengths: list[int] = []
    while (left := tokens - sum(lengths)) > 0:
        length = int(random.lognormal(np.log(longest / 4), 1.0))
        lengths.append(min(max(length, 2), longest, left))
    return lengths


def counting_bin(tokens: int, *, vocabulary: int, seed: int, longest: int | None = None) -> Bin:
    """Returns a full bin of documents that count upwards from a random id, which a model learns in a few steps.

    Args:
        tokens: tokens in the bin.
        vocabulary: number of token ids.
        seed: seed of the random lengths and ids.
        longest: upper limit of a document's length; None: `tokens`.
    """
    lengths = document_lengths(tokens, longest=longest or tokens, seed=seed)
    starts = np.random.default_rng(seed).integers(vocabulary, size=len(lengths))
    ids = [np.arange(start, start + length) % vocabulary for start, length in zip(starts, lengths, strict=True)]
    return Bin(
        input_ids=np.concatenate(ids).astype(np.int32),
        doc_lengths=np.array(lengths, np.int32),
        roles=np.concatenate([np.arange(length) >= length - 2 for length in lengths]).astype(np.uint8),
    )


def distance(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Returns |actual - expected| / |expected| with Euclidean norms, in float64."""
    actual, expected = actual.detach().double().cpu(), expected.detach().double().cpu()
    return float((actual - expected).norm() / expected.norm())
