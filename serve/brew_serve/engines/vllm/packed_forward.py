"""One forward pass of vLLM's model over segments of many prompts, with a separate cache of keys and values.

The cache has the size and layout of vLLM's own, which serves generation. Its first blocks are scratch space of a pass;
`prefix_blocks` allocates the others. Importing this module requires vLLM.

Shape suffixes: S segments, T tokens of all segments, B blocks per segment, H hidden size, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from vllm.forward_context import set_forward_context
from vllm.model_executor.models.utils import extract_layer_index
from vllm.v1.attention.backend import CommonAttentionMetadata

from brew_serve.engines.vllm.cpu_norms import compiled_norms
from brew_serve.engines.vllm.last_layer import FAMILIES, LastLayer

__all__ = ["PackedForward", "Segment"]


@dataclass(kw_only=True)
class Segment:
    """Tokens of a prompt to compute, after the part that the cache contains.

    Args:
        ids: int32 token ids, one or more.
        start: Position of the first token in the prompt.
        blocks: Cache blocks of the prompt's first positions. The forward pass assigns scratch blocks to the others.
        tail: Block with the cached tokens beyond `blocks`. It is copied, because the segment continues it. None if
            there are none.
    """

    ids: np.ndarray
    start: int
    blocks: list[int]
    tail: int | None = None


class PackedForward:
    """Computes segments.

    Args:
        runner: vLLM's model runner, with the loaded model and the shapes of its cache.

    Attributes:
        size: Tokens per block.
        max_prompts: Maximum number of segments per forward pass. As many blocks, from number 0, are for tails.
        max_tokens: Maximum number of tokens per forward pass; the longest prompt fits.
        first_block: Number of the first block that is kept beyond a pass.
        blocks: Number of the blocks that are kept beyond a pass.
    """

    def __init__(self, runner: Any) -> None:
        # A group is of layers that attend alike: with a sliding window, or without.
        groups = [group for groups in runner.attn_groups for group in groups]
        (self.size,) = {group.kv_cache_spec.block_size for group in groups}
        layers = runner.compilation_config.static_forward_context
        self._runner = runner
        self._layers: dict[str, Any] = {name: layers[name] for group in groups for name in group.layer_names}
        self._builders = {name: group.get_metadata_builder() for group in groups for name in group.layer_names}
        family = runner.model_config.hf_text_config.model_type
        last = max(self._layers, key=extract_layer_index)
        self._last = LastLayer(runner.model, family, last) if family in FAMILIES else None
        self.max_prompts: int = runner.scheduler_config.max_num_seqs
        self.max_tokens: int = runner.scheduler_config.max_num_batched_tokens
        # Scratch blocks: one tail per prompt, and per prompt one block that is partly shared and one that is not full.
        self.first_block = 3 * self.max_prompts + self.max_tokens // self.size
        # vLLM lets layers with and without a window share memory. Here each layer has its own, because a block with
        # the keys of a prefix keeps them whole, so that many fewer blocks have the same size.
        own = [layer.kv_cache for layer in self._layers.values()]
        memories = len({cache.untyped_storage().data_ptr() for cache in own})
        self.blocks: int = max(own[0].shape[0] * memories // len(own), self.max_tokens // self.size)
        self._caches = {  # the operating system allocates pages when they are written
            name: layer.kv_cache.new_zeros((self.first_block + self.blocks, *layer.kv_cache.shape[1:]))
            for name, layer in self._layers.items()
        }

    @contextmanager
    def cache_in_place(self) -> Iterator[None]:
        """Replace vLLM's cache in the model's layers by this one inside the block."""
        own_caches = {name: layer.kv_cache for name, layer in self._layers.items()}
        for name, layer in self._layers.items():
            layer.kv_cache = self._caches[name]
        try:
            yield
        finally:
            for name, layer in self._layers.items():
                layer.kv_cache = own_caches[name]

    def logprobs(self, segments: Sequence[Segment]) -> torch.Tensor | None:
        """Return the log-probabilities of the token after each segment.

        Returns:
            float32 [S, V]; None on a worker without the model's head.
        """
        logits = self._runner.model.compute_logits(self.compute(segments))
        return None if logits is None else logits.float().log_softmax(-1)

    def compute(self, segments: Sequence[Segment]) -> torch.Tensor:
        """Compute the last hidden state of each segment, [S, H], and store keys and values in the cache."""
        size, device = self.size, self._runner.device
        lengths = np.array([len(segment.ids) for segment in segments])
        starts = np.array([segment.start for segment in segments])
        table = self._table(segments, -(-(starts + lengths) // size))
        ends = lengths.cumsum()
        row = np.repeat(np.arange(len(segments)), lengths)
        positions = np.arange(ends[-1]) + (starts - ends + lengths)[row]
        slots = torch.from_numpy(table[row, positions // size] * size + positions % size).to(device)
        ids = torch.from_numpy(np.concatenate([segment.ids for segment in segments])).to(device)
        device_positions = torch.from_numpy(positions).to(device)
        last = torch.from_numpy(ends - 1).to(device)
        bounds = torch.from_numpy(np.concatenate([[0], ends]).astype(np.int32))
        context_lengths = torch.from_numpy((starts + lengths).astype(np.int32))
        metadata = CommonAttentionMetadata(
            query_start_loc=bounds.to(device),
            query_start_loc_cpu=bounds,
            seq_lens=context_lengths.to(device),
            seq_lens_cpu_upper_bound=context_lengths,
            num_reqs=len(segments),
            num_actual_tokens=len(ids),
            max_query_len=int(lengths.max()),
            max_seq_len=int(context_lengths.max()),
            block_table_tensor=torch.from_numpy(table.astype(np.int32)).to(device),
            slot_mapping=slots,
            positions=device_positions,
        )
        built = {builder: builder.build(0, metadata) for builder in set(self._builders.values())}
        layers = {name: built[builder] for name, builder in self._builders.items()}
        if self._last is not None:
            name = self._last.attention
            layers[name] = self._builders[name].build(0, _last_tokens_only(metadata, last))
        with (
            set_forward_context(
                layers,
                self._runner.vllm_config,
                num_tokens=len(ids),
                slot_mapping=dict.fromkeys(self._layers, slots),
            ),
            compiled_norms(device),
            nullcontext() if self._last is None else self._last.only(last),
        ):
            hidden: torch.Tensor = self._runner.model(input_ids=ids, positions=device_positions)
        return hidden[last] if self._last is None else hidden

    def _table(self, segments: Sequence[Segment], counts: np.ndarray) -> np.ndarray:
        """Return the block table, int64 [S, B], and copy the tails into the segments' own blocks."""
        table = np.zeros((len(segments), counts.max()), np.int64)
        free = self.max_prompts
        copies: list[tuple[int, int]] = []
        for row, (segment, count) in enumerate(zip(segments, counts.tolist(), strict=True)):
            shared = min(len(segment.blocks), count)
            table[row, :shared] = segment.blocks[:shared]
            table[row, shared:count] = np.arange(free, free + count - shared)
            if segment.tail is not None:
                copies.append((segment.tail, free))
            free += count - shared
        if copies:
            source, own = torch.tensor(copies, device=self._runner.device).unbind(1)
            for cache in self._caches.values():  # blocks are the first dimension
                cache[own] = cache[source]
        return table


def _last_tokens_only(metadata: CommonAttentionMetadata, last: torch.Tensor) -> CommonAttentionMetadata:
    """Return the metadata with the queries of each segment's last token only; `last` is int64 [S]."""
    bounds = torch.arange(len(last) + 1, dtype=torch.int32)
    return replace(
        metadata,
        query_start_loc=bounds.to(last.device),
        query_start_loc_cpu=bounds,
        num_actual_tokens=len(last),
        max_query_len=1,
        slot_mapping=metadata.slot_mapping[last],
        positions=metadata.positions[last],
    )
