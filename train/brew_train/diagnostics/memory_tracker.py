"""Tracks what training code allocates and sends, operation by operation, on fake and on real tensors."""

import weakref
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["Footprint", "Memory", "Traffic"]


@dataclass(kw_only=True)
class Memory:
    """Bytes on one rank, by what they are for."""

    parameters: int = 0  # shards of the weights
    gradients: int = 0  # shards of the gradients
    optimizer: int = 0  # shards of its state
    gathered: int = 0  # whole weights of the layers at work: FSDP's buffers, and the weights that are computed with
    reduced: int = 0  # whole gradients on their way to their shards, and the buffers they are sent from
    activations: int = 0  # everything else: what the backward pass needs, and temporary results

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Bytes that one rank sends, by kind of collective, when these run as rings; it receives as many.

    A ring of n ranks moves (n - 1) / n of the whole tensor through each rank in an all-gather or a reduce-scatter, and
    twice that in an all-reduce, which is one after the other. No algorithm sends less (Patarasuk & Yuan 2009).
    """

    all_gather: int = 0
    reduce_scatter: int = 0
    all_reduce: int = 0
    calls: int = 0  # collectives

    @property
    def total(self) -> int:
        """Bytes sent."""
        return self.all_gather + self.reduce_scatter + self.all_reduce

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    def __sub__(self, other: "Traffic") -> "Traffic":
        return self + other.times(-1)

    def times(self, count: int) -> "Traffic":
        """The same, `count` times."""
        return Traffic(**{f.name: getattr(self, f.name) * count for f in fields(self)})


@dataclass(eq=False)
class _Block:
    """The memory behind one or more tensors."""

    size: int
    kind: str
    alive: Any  # weak reference to the storage, whose callback notes the end


class Footprint(TorchDispatchMode):  # type: ignore[no-untyped-call]  # PyTorch's base class has no types
    """Follows every storage that is made inside its block, which may be entered several times.

    The order is that of the CPU's calls. On a GPU fragments come on top, and what streams hold longer than the CPU.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.traffic = Traffic()
        self._blocks: dict[int, _Block] = {}
        # What a block is for is often known only when it is used, so changes name the block, not its kind.
        self._changes: list[tuple[_Block, int]] = []

    def hold(self, tensors: Iterable[torch.Tensor], kind: str) -> None:
        """Counts `tensors`, which live already or were made inside the block, as `kind`, a field of `Memory`."""
        for tensor in tensors:
            self._follow(tensor).kind = kind

    def now(self) -> Memory:
        """What is alive."""
        memory = Memory()
        for block in self._blocks.values():
            _add(memory, block, block.size)
        return memory

    def peak(self) -> Memory:
        """What was alive at the moment when that was the most."""
        alive = most = until = 0
        for index, (_, change) in enumerate(self._changes):
            alive += change
            if alive > most:
                most, until = alive, index + 1
        memory = Memory()
        for block, change in self._changes[:until]:
            _add(memory, block, change)
        return memory

    def __enter__(self) -> "Footprint":
        self._resize = torch.UntypedStorage.resize_
        resize, blocks, changes = self._resize, self._blocks, self._changes

        def noted(storage: torch.UntypedStorage, size: int) -> Any:
            """FSDP2 frees and allocates gathered weights by resizing their storage, which no dispatch mode sees."""
            result = resize(storage, size)
            block = blocks.get(storage._cdata)
            if block is not None:
                block.kind = "gathered"
                changes.append((block, storage.nbytes() - block.size))
                block.size = storage.nbytes()
            return result

        torch.UntypedStorage.resize_ = noted  # type: ignore[method-assign, assignment]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # once DTensor has turned it into operations on shards
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._follow(tensor)
        name = func.name()
        if name == "c10d::_allgather_base_":
            self._sent("all_gather", args[0], group=args[2])
            self.hold([args[0]], "gathered")
        elif name == "c10d::_reduce_scatter_base_":
            self._sent("reduce_scatter", args[1], group=args[2])
            self.hold([args[1]], "reduced")
            self.hold([args[0]], "gradients")  # FSDP2 keeps this as the gradients, or adds it to them
        elif name == "c10d::allreduce_":
            for tensor in args[0]:
                self._sent("all_reduce", tensor, group=args[1], rounds=2)
        elif name == "fsdp::split_with_sizes_copy":
            self.hold(kwargs["out"], "gathered")
        elif name == "aten::cat.out":  # FSDP2 puts parts together that were not cut along the first dimension
            self.hold([kwargs["out"]], "gathered")
        elif name == "fsdp::chunk_cat":
            self.hold([*args[0], kwargs["out"]], "reduced")
        return out

    def _follow(self, tensor: torch.Tensor) -> _Block:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._blocks:
            alive = weakref.ref(storage, lambda _: self._changes.append((block, -self._blocks.pop(key).size)))
            self._blocks[key] = block = _Block(size=storage.nbytes(), kind="activations", alive=alive)
            self._changes.append((block, block.size))
        return self._blocks[key]

    def _sent(self, kind: str, whole: torch.Tensor, *, group: Any, rounds: int = 1) -> None:
        ranks = dist.ProcessGroup.unbox(group).size()
        sent = rounds * whole.numel() * whole.element_size() * (ranks - 1) // ranks
        self.traffic += Traffic(**{kind: sent, "calls": 1})


def _add(memory: Memory, block: _Block, size: int) -> None:
    setattr(memory, block.kind, getattr(memory, block.kind) + size)
