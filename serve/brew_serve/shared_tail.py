"""Shares what prompts have in common to the last token, where vLLM's prefix cache shares whole blocks only.

The candidates of a request share a prefix of any length. What it has beyond its last full block (up to 31 tokens on
CPU) and how all questions begin would be computed again for every candidate, which has only some 20 tokens of its own.
So the first prompt of a group leads: the others wait for the step that computes it, and then begin with a copy of the
blocks that hold the rest of what is shared. Blocks are copied whole: what the leader wrote behind the shared tokens is
overwritten before it is read.

Owns: who leads, what is copied, and how long the leader's blocks are kept. Does not own: which prompts share what
(`brew_serve.scoring`), or the prefix cache (vLLM's). It is a KV connector, vLLM's place for keys and values that come
from elsewhere; here they come from the same cache. Importing this module needs vLLM. Source: issue 4.
"""

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, KVConnectorMetadata

__all__ = ["SharedTailConnector", "told"]

_KEEP_SECONDS = 10.0  # a leader's blocks, should prompts of its group never come


def told(*, group: int, tokens: int, prompts: int, leads: bool) -> dict[str, Any]:
    """What a request tells the connector, as vLLM's `SamplingParams.extra_args`.

    Args:
        group: prompts with the same number share.
        tokens: how many tokens, from the first on.
        prompts: how many prompts there are in the group, the leader among them.
        leads: whether this is the first of them; it must be sent first.
    """
    return {"kv_transfer_params": {"group": group, "tokens": tokens, "prompts": prompts, "leads": leads}}


@dataclass(kw_only=True)
class _Group:
    leader: str  # request id
    tokens: int
    followers: int  # prompts beside the leader
    started: set[str] = field(default_factory=set)  # those that have begun, or never will
    blocks: list[int] = field(default_factory=list)  # the leader's; empty until they are computed
    kept_since: float = 0.0


@dataclass(kw_only=True)
class _Step(KVConnectorMetadata):
    """From the scheduler to the workers: what to do in this step."""

    copies: list[tuple[int, int]] = field(default_factory=list)  # source and destination block
    done: set[str] = field(default_factory=set)  # leaders whose blocks nobody needs any more


class SharedTailConnector(KVConnectorBase_V1):
    """The scheduler's side keeps the groups, the worker's side copies blocks; both are vLLM's to call."""

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self._block_size: int = vllm_config.cache_config.block_size
        self._groups: dict[int, _Group] = {}
        self._step = _Step()
        self._caches: list[torch.Tensor] = []

    # The scheduler's side

    def on_new_request(self, request: Any) -> None:
        about = request.kv_transfer_params
        if about and about["leads"]:
            self._groups[about["group"]] = _Group(
                leader=request.request_id, tokens=about["tokens"], followers=about["prompts"] - 1
            )

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
        """Tokens beyond `num_computed_tokens` that the leader has; None as long as it is being computed."""
        group = self._group(request)
        if group is None or group.leader == request.request_id:
            return 0, False
        if not group.blocks:
            return None, False
        return max(0, min(group.tokens, request.num_prompt_tokens - 1) - num_computed_tokens), False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        group = self._group(request)
        if group is None or group.leader == request.request_id:
            return
        if num_external_tokens:
            (own,) = blocks.get_block_ids()
            end = min(group.tokens, request.num_prompt_tokens - 1)
            first, last = (end - num_external_tokens) // self._block_size, (end - 1) // self._block_size
            self._step.copies += zip(group.blocks[first : last + 1], own[first : last + 1], strict=True)
        self._started(request, group)

    def build_connector_meta(self, scheduler_output: Any) -> _Step:
        # Where nothing could be scheduled, blocks that are kept may be the reason.
        longest = _KEEP_SECONDS if scheduler_output.total_num_scheduled_tokens else 0.0
        now = time.monotonic()
        for number, group in list(self._groups.items()):
            if group.blocks and now - group.kept_since >= longest:
                self._forget(number)
        step, self._step = self._step, _Step()
        return step

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        """A leader's blocks are kept for its group; without them, as when it was cancelled, each computes its own."""
        group = self._group(request)
        if group is None:
            return False, None
        if group.leader != request.request_id:
            self._started(request, group)  # or never will be
            return False, None
        if len(block_ids) * self._block_size < group.tokens or len(group.started) >= group.followers:
            del self._groups[request.kv_transfer_params["group"]]
            return False, None
        group.blocks, group.kept_since = list(block_ids), time.monotonic()
        return True, None

    def _group(self, request: Any) -> _Group | None:
        about = request.kv_transfer_params
        return self._groups.get(about["group"]) if about else None

    def _started(self, request: Any, group: _Group) -> None:
        group.started.add(request.request_id)
        if len(group.started) >= group.followers and group.blocks:
            self._forget(request.kv_transfer_params["group"])

    def _forget(self, number: int) -> None:
        self._step.done.add(self._groups.pop(number).leader)

    # The worker's side

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        self._caches = list(kv_caches.values())

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        copies = self._told_step().copies
        if copies:
            sources, destinations = torch.tensor(copies, device=self._caches[0].device).unbind(1)
            for cache in self._caches:  # blocks are the first dimension
                cache[destinations] = cache[sources]

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        return self._told_step().done, None

    def _told_step(self) -> _Step:
        step = self._get_connector_metadata()
        assert isinstance(step, _Step)
        return step

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Copies are done before the step begins."""

    def save_kv_layer(self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any) -> None:
        """What is computed stays where it is."""

    def wait_for_save(self) -> None:
        """Nothing is saved."""
