"""One forward of vLLM's model over segments of many prompts, with a separate cache of keys and values.

The cache has the size and layout of vLLM's, which is for generation. Its first blocks are scratch space of a pass;
`prefix_blocks` allocates the others. Importing this module requires vLLM.
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
    """Tokens of a prompt to compute, behind what the cache holds of it."""

    ids: np.ndarray  # int32, one or more
    start: int  # position of the first
    blocks: list[int]  # of the first positions; those of the others are made for it
    tail: int | None = None  # the block that holds what the cache has beyond `blocks`, to be copied


class PackedForward:
    """Computes segments.

    Args:
        runner: vLLM's, with the model and the shapes of its cache.

    Attributes:
        size: tokens of a block.
        most_prompts: of a forward; as many blocks, from 0 on, are for tails.
        most_tokens: of a forward; a longest prompt is within it.
        first_block, blocks: where the blocks begin that are kept beyond a pass, and how many they are.
    """

    def __init__(self, runner: Any) -> None:
        (groups,) = runner.attn_groups  # all layers attend alike, in the families that are trained here
        (group,) = groups
        self._runner, self._builder = runner, group.get_metadata_builder()
        layers = runner.compilation_config.static_forward_context
        self._layers: dict[str, Any] = {name: layers[name] for name in group.layer_names}
        family = runner.model_config.hf_text_config.model_type
        self._last = LastLayer(runner.model, max(self._layers, key=extract_layer_index)) if family in FAMILIES else None
        self.size: int = runner.cache_config.block_size
        self.most_prompts: int = runner.scheduler_config.max_num_seqs
        self.most_tokens: int = runner.scheduler_config.max_num_batched_tokens
        # Prompts: each begins in a block that is partly shared, and ends in one that it does not fill
        self.first_block = 3 * self.most_prompts + self.most_tokens // self.size
        self.blocks: int = next(iter(self._layers.values())).kv_cache.shape[0]
        self._caches = {  # the system gives memory to pages as they are written
            name: layer.kv_cache.new_zeros((self.first_block + self.blocks, *layer.kv_cache.shape[1:]))
            for name, layer in self._layers.items()
        }

    @contextmanager
    def cache_in_place(self) -> Iterator[None]:
        """Inside the block the model's layers have this cache instead of vLLM's."""
        theirs = {name: layer.kv_cache for name, layer in self._layers.items()}
        for name, layer in self._layers.items():
            layer.kv_cache = self._caches[name]
        try:
            yield
        finally:
            for name, layer in self._layers.items():
                layer.kv_cache = theirs[name]

    def logprobs(self, segments: Sequence[Segment]) -> torch.Tensor | None:
        """Of the token behind each segment, float32 [segments, vocabulary]; None on a worker that has no head."""
        logits = self._runner.model.compute_logits(self.compute(segments))
        return None if logits is None else logits.float().log_softmax(-1)

    def compute(self, segments: Sequence[Segment]) -> torch.Tensor:
        """The last hidden state of each segment, [segments, hidden size]; keys and values are in the cache."""
        size, device = self.size, self._runner.device
        lengths = np.array([len(one.ids) for one in segments])
        starts = np.array([one.start for one in segments])
        table = self._table(segments, -(-(starts + lengths) // size))
        ends = lengths.cumsum()
        row = np.repeat(np.arange(len(segments)), lengths)
        positions = np.arange(ends[-1]) + (starts - ends + lengths)[row]
        slots = torch.from_numpy(table[row, positions // size] * size + positions % size).to(device)
        ids = torch.from_numpy(np.concatenate([one.ids for one in segments])).to(device)
        place = torch.from_numpy(positions).to(device)
        last = torch.from_numpy(ends - 1).to(device)
        bounds = torch.from_numpy(np.concatenate([[0], ends]).astype(np.int32))
        seen = torch.from_numpy((starts + lengths).astype(np.int32))
        about = CommonAttentionMetadata(
            query_start_loc=bounds.to(device),
            query_start_loc_cpu=bounds,
            seq_lens=seen.to(device),
            seq_lens_cpu_upper_bound=seen,
            num_reqs=len(segments),
            num_actual_tokens=len(ids),
            max_query_len=int(lengths.max()),
            max_seq_len=int(seen.max()),
            block_table_tensor=torch.from_numpy(table.astype(np.int32)).to(device),
            slot_mapping=slots,
            positions=place,
        )
        layers = dict.fromkeys(self._layers, self._builder.build(0, about))
        if self._last is not None:
            layers[self._last.attention] = self._builder.build(0, _of_rows(about, last))
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
            hidden: torch.Tensor = self._runner.model(input_ids=ids, positions=place)
        return hidden[last] if self._last is None else hidden

    def _table(self, segments: Sequence[Segment], counts: np.ndarray) -> np.ndarray:
        """int64 [segments, most blocks]: the blocks of each, with its tail copied where it has one."""
        table = np.zeros((len(segments), counts.max()), np.int64)
        free = self.most_prompts
        copies: list[tuple[int, int]] = []
        for row, (one, count) in enumerate(zip(segments, counts.tolist(), strict=True)):
            shared = min(len(one.blocks), count)
            table[row, :shared] = one.blocks[:shared]
            table[row, shared:count] = np.arange(free, free + count - shared)
            if one.tail is not None:
                copies.append((one.tail, free))
            free += count - shared
        if copies:
            source, own = torch.tensor(copies, device=self._runner.device).unbind(1)
            for cache in self._caches.values():  # blocks are the first dimension
                cache[own] = cache[source]
        return table


def _of_rows(about: CommonAttentionMetadata, last: torch.Tensor) -> CommonAttentionMetadata:
    """The same, when only the last token of each segment asks."""
    bounds = torch.arange(len(last) + 1, dtype=torch.int32)
    return replace(
        about,
        query_start_loc=bounds.to(last.device),
        query_start_loc_cpu=bounds,
        num_actual_tokens=len(last),
        max_query_len=1,
        slot_mapping=about.slot_mapping[last],
        positions=about.positions[last],
    )
