"""Computes label log-probabilities inside vLLM's process, in packed passes with its model and kernels.

A prompt that needs one token never waits for another step, so no scheduler is needed. One pass takes many prompts and
computes the prefix that a group shares once:

    shared prefixes that are not cached  -> one forward  -> keys and values in cache blocks
    remaining tokens of each prompt      -> one forward  -> last hidden states -> head -> log-probabilities

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

    def go_ahead(self, tail: int) -> Segment | None:
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
        return Segment(ids=self.begins[start:end], start=start, blocks=blocks) if start < end else None

    def segments(self) -> list[Segment]:
        """What is left to compute of each prompt."""
        rest = self.begins[self.start :]
        return [
            Segment(
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
        runner: vLLM's.
    """

    def __init__(self, runner: Any) -> None:
        self._model = model = PackedForward(runner)
        self._prefixes = PrefixBlocks(first=model.first_block, count=model.blocks, size=model.size)

    @torch.inference_mode()
    def score(self, groups: Sequence[Group]) -> tuple[list[bytes], int] | None:
        """As `ScoringWorker.score_prompts`."""
        answers: list[bytes] = []
        computed = 0
        try:
            with self._model.cache_in_place():
                while len(answers) < len(groups):
                    begun, first = self._begin(groups[len(answers) :])
                    then = [segment for one in begun for segment in one.segments()]
                    for some in self._forwards(first):
                        self._model.compute(some)
                    logprobs = [self._model.logprobs(some) for some in self._forwards(then)]
                    here = [some for some in logprobs if some is not None]
                    if not here:
                        return None
                    answers += _answers(begun, torch.cat(here))
                    computed += sum(len(segment.ids) for segment in (*first, *then))
        except BaseException:
            self._prefixes.forget()  # of blocks that were promised to hold what was not computed
            raise
        return answers, prompt_tokens_of(groups) - computed

    def _begin(self, groups: Sequence[Group]) -> tuple[list[_Begun], list[Segment]]:
        """As many groups, from the first on, as there is room for, and what is to be computed before their prompts."""
        begun: list[_Begun] = []
        self._prefixes.release()
        for begins, own, lengths, wanted in groups[: self._model.most_prompts]:
            ids = np.frombuffer(begins, np.int32)
            try:
                blocks, known = self._prefixes.take(ids)
            except OutOfBlocks:
                if not begun:
                    raise
                break
            parts = np.split(np.frombuffer(own, np.int32), np.cumsum(lengths)[:-1])
            full, start = len(blocks) * self._model.size, known * self._model.size
            begun.append(_Begun(begins=ids, own=parts, wanted=wanted, blocks=blocks, full=full, start=start))
        if not any(one.gains for one in begun):  # each prompt computes what is missing, and full blocks are kept of it
            return begun, []
        # One may begin with blocks that another fills, so all blocks are filled before any prompt goes on.
        first = [one.go_ahead(tail) for tail, one in enumerate(begun)]
        return begun, [segment for segment in first if segment is not None]

    def _forwards(self, segments: Sequence[Segment]) -> Iterator[list[Segment]]:
        """Parts that one forward can compute."""
        some: list[Segment] = []
        tokens = 0
        for one in segments:
            if some and (tokens + len(one.ids) > self._model.most_tokens or len(some) == self._model.most_prompts):
                yield some
                some, tokens = [], 0
            some.append(one)
            tokens += len(one.ids)
        if some:
            yield some


def _answers(begun: list[_Begun], logprobs: torch.Tensor) -> Iterator[bytes]:
    at = 0
    for one in begun:
        end = at + len(one.own)
        yield logprobs[at:end, one.wanted].cpu().numpy().tobytes()
        at = end
