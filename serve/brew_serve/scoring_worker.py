"""Computes label log-probabilities in vLLM's process, a pass at a time: with its model and kernels, not its scheduler.

A prompt that asks for one token never waits for another step, so there is nothing to schedule. A pass takes many
prompts, and what groups of them begin with is computed once, to the last token:

    beginnings that are not in the cache  -> one forward  -> their keys and values, in cache blocks
    what each prompt has for itself       -> one forward  -> the last hidden states -> head -> log-probabilities

Full blocks of a beginning stay in the cache for later passes. What it has beyond them, up to 31 tokens on CPU, is
copied into a block of each prompt, which goes on in it.

Owns: that, and a cache of its own, as large as vLLM's, which is for texts. Does not own: which prompts go together
(`scoring_queue`), or which blocks hold what (`prefix_blocks`). vLLM mixes `ScoringWorker` into its worker, which is its
place for calls of our own. Importing this module needs vLLM. Source: issue 4.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from vllm.forward_context import set_forward_context
from vllm.v1.attention.backend import CommonAttentionMetadata

from brew_serve.cpu_norms import compiled_norms
from brew_serve.prefix_blocks import NoRoom, PrefixBlocks
from brew_serve.scoring_queue import Group, asked_tokens

__all__ = ["ScoringWorker"]

# Tokens that a forward costs even where it computes one, about. Computing as many again for want of it costs no more.
_FORWARD_TOKENS = 256


class ScoringWorker:
    """What vLLM's worker can do besides."""

    model_runner: Any

    def score_prompts(self, groups: list[Group]) -> tuple[list[bytes], int] | None:
        """Log-probabilities of wanted next tokens, from fp32 logits.

        Args:
            groups: as `scoring_queue.ScoringQueue` sends them.

        Returns:
            For each group float32 [prompts, wanted tokens], and how many tokens of all prompts were not computed; None
            on a worker that has no logits.
        """
        passes: _Passes | None = getattr(self, "_scoring_passes", None)
        if passes is None:
            passes = _Passes(self.model_runner)
            self._scoring_passes = passes
        return passes.score(groups)


@dataclass(kw_only=True)
class _Sequence:
    """Tokens to compute behind what the cache holds."""

    ids: np.ndarray  # int32, one or more
    start: int  # position of the first
    blocks: list[int]  # of the first positions; those of the others are made for it
    tail: int | None = None  # the block that holds what the cache has beyond `blocks`, to be copied


@dataclass(kw_only=True)
class _Begun:
    """A group, and how far its beginning is in the cache before its prompts go on."""

    begins: np.ndarray  # int32
    own: list[np.ndarray]  # int32, of each prompt
    wanted: list[int]
    blocks: list[int]  # of the beginning's full blocks
    full: int  # tokens in them
    start: int  # tokens of the beginning that the prompts need not compute
    tail: int | None = None  # the block with those of them that fill none

    @property
    def gains(self) -> bool:
        """Whether its beginning had better be computed for all of its prompts before them."""
        others, rest = len(self.own) - 1, len(self.begins) - self.full
        return others > 0 and (self.start < self.full or others * rest >= _FORWARD_TOKENS)

    def go_ahead(self, tail: int) -> _Sequence | None:
        """What is to be computed of the beginning before the prompts; None where nothing is.

        Args:
            tail: a block that holds what fills none, where it is worth while.
        """
        start, blocks, end = self.start, self.blocks, self.full
        if self.gains:
            end = len(self.begins)
            if end > self.full:
                self.tail, blocks = tail, [*blocks, tail]
        self.start = end
        return _Sequence(ids=self.begins[start:end], start=start, blocks=blocks) if start < end else None

    def sequences(self) -> list[_Sequence]:
        """What is left to compute of each prompt."""
        rest = self.begins[self.start :]
        return [
            _Sequence(
                ids=np.concatenate([rest, own]) if len(rest) else own,
                start=self.start,
                blocks=self.blocks,
                tail=self.tail,
            )
            for own in self.own
        ]


class _Passes:
    """Computes passes with a loaded model.

    Args:
        runner: vLLM's, with the model and the shapes of its cache.
    """

    def __init__(self, runner: Any) -> None:
        (groups,) = runner.attn_groups  # all layers attend alike, in the families that are trained here
        (group,) = groups
        self._runner, self._builder = runner, group.get_metadata_builder()
        layers = runner.compilation_config.static_forward_context
        self._layers: dict[str, Any] = {name: layers[name] for name in group.layer_names}
        self._size: int = runner.cache_config.block_size
        self._most_prompts: int = runner.scheduler_config.max_num_seqs
        self._most_tokens: int = runner.scheduler_config.max_num_batched_tokens  # a longest prompt is within it
        # Blocks that hold nothing beyond a pass: a tail for each group, and what prompts need for themselves in a
        # forward: each begins in a block that is partly shared, and ends in one that it does not fill
        self._own = self._most_prompts
        self._kept = self._own + 2 * self._most_prompts + self._most_tokens // self._size
        count: int = next(iter(self._layers.values())).kv_cache.shape[0]
        self._prefixes = PrefixBlocks(first=self._kept, count=count, size=self._size)
        self._caches = {  # the system gives memory to pages as they are written
            name: layer.kv_cache.new_zeros((self._kept + count, *layer.kv_cache.shape[1:]))
            for name, layer in self._layers.items()
        }

    @torch.inference_mode()
    def score(self, groups: Sequence[Group]) -> tuple[list[bytes], int] | None:
        """As `ScoringWorker.score_prompts`."""
        answers: list[bytes] = []
        computed = 0
        with self._caches_in_place():
            while len(answers) < len(groups):
                begun, first = self._begin(groups[len(answers) :])
                then = [sequence for one in begun for sequence in one.sequences()]
                for some in self._forwards(first):
                    self._forward(some)
                logprobs = [self._logprobs(some) for some in self._forwards(then)]
                here = [some for some in logprobs if some is not None]
                if not here:
                    return None
                answers += _answers(begun, torch.cat(here))
                computed += sum(len(sequence.ids) for sequence in (*first, *then))
        return answers, asked_tokens(groups) - computed

    @contextmanager
    def _caches_in_place(self) -> Iterator[None]:
        theirs = {name: layer.kv_cache for name, layer in self._layers.items()}
        for name, layer in self._layers.items():
            layer.kv_cache = self._caches[name]
        try:
            yield
        except BaseException:
            self._prefixes.forget()  # of blocks that were promised to hold what was not computed
            raise
        finally:
            for name, layer in self._layers.items():
                layer.kv_cache = theirs[name]

    def _begin(self, groups: Sequence[Group]) -> tuple[list[_Begun], list[_Sequence]]:
        """As many groups, from the first on, as there is room for, and what is to be computed before their prompts."""
        begun: list[_Begun] = []
        self._prefixes.release()
        for begins, own, lengths, wanted in groups[: self._most_prompts]:
            ids = np.frombuffer(begins, np.int32)
            try:
                blocks, known = self._prefixes.take(ids)
            except NoRoom:
                if not begun:
                    raise
                break
            parts = np.split(np.frombuffer(own, np.int32), np.cumsum(lengths)[:-1])
            full, start = len(blocks) * self._size, known * self._size
            begun.append(_Begun(begins=ids, own=parts, wanted=wanted, blocks=blocks, full=full, start=start))
        if not any(one.gains for one in begun):  # each prompt computes what is missing, and full blocks are kept of it
            return begun, []
        # One may begin with blocks that another fills, so all blocks are filled before any prompt goes on.
        first = [one.go_ahead(tail) for tail, one in enumerate(begun)]
        return begun, [sequence for sequence in first if sequence is not None]

    def _forwards(self, sequences: Sequence[_Sequence]) -> Iterator[list[_Sequence]]:
        """Parts that one forward can compute."""
        some: list[_Sequence] = []
        tokens = 0
        for one in sequences:
            if some and (tokens + len(one.ids) > self._most_tokens or len(some) == self._most_prompts):
                yield some
                some, tokens = [], 0
            some.append(one)
            tokens += len(one.ids)
        if some:
            yield some

    def _logprobs(self, sequences: list[_Sequence]) -> torch.Tensor | None:
        """Of the token behind each sequence, float32 [sequences, vocabulary]; None on a worker that has no head."""
        logits = self._runner.model.compute_logits(self._forward(sequences))
        return None if logits is None else logits.float().log_softmax(-1)

    def _forward(self, sequences: list[_Sequence]) -> torch.Tensor:
        """The last hidden state of each sequence, [sequences, hidden size]; keys and values are in the cache."""
        size, device = self._size, self._runner.device
        lengths = np.array([len(one.ids) for one in sequences])
        starts = np.array([one.start for one in sequences])
        table = self._table(sequences, -(-(starts + lengths) // size))
        ends = lengths.cumsum()
        row = np.repeat(np.arange(len(sequences)), lengths)
        positions = np.arange(ends[-1]) + (starts - ends + lengths)[row]
        slots = torch.from_numpy(table[row, positions // size] * size + positions % size).to(device)
        ids = torch.from_numpy(np.concatenate([one.ids for one in sequences])).to(device)
        place = torch.from_numpy(positions).to(device)
        bounds = torch.from_numpy(np.concatenate([[0], ends]).astype(np.int32))
        seen = torch.from_numpy((starts + lengths).astype(np.int32))
        about = self._builder.build(
            0,
            CommonAttentionMetadata(
                query_start_loc=bounds.to(device),
                query_start_loc_cpu=bounds,
                seq_lens=seen.to(device),
                seq_lens_cpu_upper_bound=seen,
                num_reqs=len(sequences),
                num_actual_tokens=len(ids),
                max_query_len=int(lengths.max()),
                max_seq_len=int(seen.max()),
                block_table_tensor=torch.from_numpy(table.astype(np.int32)).to(device),
                slot_mapping=slots,
                positions=place,
            ),
        )
        with (
            set_forward_context(
                dict.fromkeys(self._layers, about),
                self._runner.vllm_config,
                num_tokens=len(ids),
                slot_mapping=dict.fromkeys(self._layers, slots),
            ),
            compiled_norms(device),
        ):
            hidden: torch.Tensor = self._runner.model(input_ids=ids, positions=place)
        return hidden[torch.from_numpy(ends - 1).to(device)]

    def _table(self, sequences: Sequence[_Sequence], counts: np.ndarray) -> np.ndarray:
        """int64 [sequences, most blocks]: the blocks of each, with its tail copied where it has one."""
        table = np.zeros((len(sequences), counts.max()), np.int64)
        free = self._own
        copies: list[tuple[int, int]] = []
        for row, (one, count) in enumerate(zip(sequences, counts.tolist(), strict=True)):
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


def _answers(begun: list[_Begun], logprobs: torch.Tensor) -> Iterator[bytes]:
    at = 0
    for one in begun:
        end = at + len(one.own)
        yield logprobs[at:end, one.wanted].cpu().numpy().tobytes()
        at = end
