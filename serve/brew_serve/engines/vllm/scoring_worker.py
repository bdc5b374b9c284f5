"""Computes label log-probabilities inside vLLM's process, in packed passes with its model and kernels.

A prompt that needs one token never waits for another step, so no scheduler is needed. One pass computes many prompts,
and the prefix that a group of them shares once:

    shared prefixes that are not cached  -> one forward pass  -> keys and values in cache blocks
    remaining tokens of each prompt      -> one forward pass  -> last hidden states -> head -> log-probabilities

Full blocks of a prefix stay in the cache. The tokens beyond them (up to 31 on CPU) are copied into a block of each
prompt. vLLM mixes `ScoringWorker` into its worker (`worker_extension_cls`). Importing this module requires vLLM.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from brew_serve.engines.vllm.packed_forward import PackedForward, Segment
from brew_serve.engines.vllm.prefix_blocks import OutOfBlocks, PrefixBlocks
from brew_serve.engines.vllm.scoring_queue import Group, prompt_tokens_of

__all__ = ["ScoringWorker"]

# Approximate fixed cost of a forward pass, in tokens. An extra pass is worthwhile only if it saves at least as many.
_FORWARD_TOKENS = 256


class ScoringWorker:
    """Methods that vLLM adds to its worker."""

    model_runner: Any

    def score_prompts(self, groups: list[Group]) -> tuple[list[bytes], int] | None:
        """Compute the log-probabilities of the target tokens of each group, from fp32 logits.

        Args:
            groups: Groups that `scoring_queue.ScoringQueue` sends.

        Returns:
            For each group the bytes of float32 [prompts, target tokens], and the number of prompt tokens that did not
            have to be computed. None on a worker without logits.
        """
        passes: _Passes | None = getattr(self, "_scoring_passes", None)
        if passes is None:
            passes = _Passes(self.model_runner)
            self._scoring_passes = passes
        return passes.score(groups)


@dataclass(kw_only=True)
class _CachedGroup:
    """A group, and the part of its prefix that is in the cache.

    Args:
        prefix: int32 token ids that all prompts begin with.
        suffixes: int32 token ids of each prompt after the prefix.
        target_ids: Token ids whose log-probabilities are returned.
        blocks: The prefix's full blocks.
        full: Number of tokens in `blocks`.
        start: Number of prefix tokens that the prompts do not have to compute.
        tail: Block with the cached prefix tokens beyond `blocks`; None if there are none.
    """

    prefix: np.ndarray
    suffixes: list[np.ndarray]
    target_ids: list[int]
    blocks: list[int]
    full: int
    start: int
    tail: int | None = None

    @property
    def gains(self) -> bool:
        """Whether it is cheaper to compute the prefix once, in an earlier forward pass, than with each prompt."""
        others, rest = len(self.suffixes) - 1, len(self.prefix) - self.full
        return others > 0 and (self.start < self.full or others * rest >= _FORWARD_TOKENS)

    def take_prefix(self, tail: int) -> Segment | None:
        """Return the part of the prefix to compute before the prompts; None if there is none.

        Args:
            tail: Block for the tokens beyond the full blocks; used if `gains`.
        """
        start, blocks, end = self.start, self.blocks, self.full
        if self.gains:
            end = len(self.prefix)
            if end > self.full:
                self.tail, blocks = tail, [*blocks, tail]
        self.start = end
        return Segment(ids=self.prefix[start:end], start=start, blocks=blocks) if start < end else None

    def segments(self) -> list[Segment]:
        """Return the remaining tokens of each prompt."""
        rest = self.prefix[self.start :]
        return [
            Segment(
                ids=np.concatenate([rest, suffix]) if len(rest) else suffix,
                start=self.start,
                blocks=self.blocks,
                tail=self.tail,
            )
            for suffix in self.suffixes
        ]


class _Passes:
    """Computes passes with a loaded model.

    Args:
        runner: vLLM's model runner.
    """

    def __init__(self, runner: Any) -> None:
        self._model = model = PackedForward(runner)
        self._prefixes = PrefixBlocks(first=model.first_block, count=model.blocks, size=model.size)

    @torch.inference_mode()
    def score(self, groups: Sequence[Group]) -> tuple[list[bytes], int] | None:
        """Compute the groups; arguments and return value are those of `ScoringWorker.score_prompts`."""
        answers: list[bytes] = []
        computed = 0
        try:
            with self._model.cache_in_place():
                while len(answers) < len(groups):
                    cached, prefixes = self._look_up(groups[len(answers) :])
                    rests = [segment for group in cached for segment in group.segments()]
                    for segments in self._split(prefixes):
                        self._model.compute(segments)
                    logprobs = [self._model.logprobs(segments) for segments in self._split(rests)]
                    present = [values for values in logprobs if values is not None]
                    if not present:
                        return None
                    answers += _answers(cached, torch.cat(present))
                    computed += sum(len(segment.ids) for segment in (*prefixes, *rests))
        except BaseException:
            self._prefixes.forget()  # some blocks are registered, but were not computed
            raise
        return answers, prompt_tokens_of(groups) - computed

    def _look_up(self, groups: Sequence[Group]) -> tuple[list[_CachedGroup], list[Segment]]:
        """Reserve cache blocks for the first groups, as many as fit.

        Returns:
            These groups, and the segments to compute before their prompts.
        """
        cached: list[_CachedGroup] = []
        self._prefixes.release()
        for prefix, suffixes, lengths, target_ids in groups[: self._model.max_prompts]:
            ids = np.frombuffer(prefix, np.int32)
            try:
                blocks, known = self._prefixes.take(ids)
            except OutOfBlocks:
                if not cached:
                    raise
                break
            cached.append(
                _CachedGroup(
                    prefix=ids,
                    suffixes=np.split(np.frombuffer(suffixes, np.int32), np.cumsum(lengths)[:-1]),
                    target_ids=target_ids,
                    blocks=blocks,
                    full=len(blocks) * self._model.size,
                    start=known * self._model.size,
                )
            )
        if not any(group.gains for group in cached):  # each prompt computes the missing tokens and keeps full blocks
            return cached, []
        # The prefix of one group can contain blocks that another group fills: fill all blocks before any prompt.
        prefixes = [group.take_prefix(tail) for tail, group in enumerate(cached)]
        return cached, [segment for segment in prefixes if segment is not None]

    def _split(self, segments: Sequence[Segment]) -> Iterator[list[Segment]]:
        """Split the segments into parts of one forward pass each."""
        part: list[Segment] = []
        tokens = 0
        for segment in segments:
            full = tokens + len(segment.ids) > self._model.max_tokens or len(part) == self._model.max_prompts
            if part and full:
                yield part
                part, tokens = [], 0
            part.append(segment)
            tokens += len(segment.ids)
        if part:
            yield part


def _answers(groups: list[_CachedGroup], logprobs: torch.Tensor) -> Iterator[bytes]:
    """Yield the bytes of float32 [prompts, target tokens] of each group; `logprobs` is float32 [all prompts, V]."""
    start = 0
    for group in groups:
        end = start + len(group.suffixes)
        yield logprobs[start:end, group.target_ids].cpu().numpy().tobytes()
        start = end
