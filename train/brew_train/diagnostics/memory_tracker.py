"""Tracks the memory and the traffic of training code, for each operation, on fake or real tensors."""

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
    """Bytes on one rank, by use."""

    parameters: int = 0  # shards of the weights
    gradients: int = 0  # shards of the gradients
    optimizer: int = 0  # shards of the optimizer state
    gathered: int = 0  # whole weights of gathered layers, and FSDP2's buffers for them
    reduced: int = 0  # whole gradients before their reduction, and FSDP2's buffers for them
    activations: int = 0  # all other memory: results that the backward pass needs, and temporary results

    @property
    def total(self) -> int:
        """Sum of all uses."""
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Bytes that one rank sends, by kind of collective, with ring algorithms; it receives the same number.

    In a ring of n ranks, each rank sends (n - 1) / n of the whole tensor in an all-gather or a reduce-scatter. An
    all-reduce consists of both, and sends twice as much. This is the minimum (Patarasuk & Yuan 2009).
    """

    all_gather: int = 0
    reduce_scatter: int = 0
    all_reduce: int = 0
    calls: int = 0  # number of collectives

    @property
    def total(self) -> int:
        """Bytes sent."""
        return self.all_gather + self.reduce_scatter + self.all_reduce

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    def __sub__(self, other: "Traffic") -> "Traffic":
        return self + other.times(-1)

    def times(self, count: int) -> "Traffic":
        """Returns the traffic multiplied by `count`."""
        return Traffic(**{f.name: getattr(self, f.name) * count for f in fields(self)})


@dataclass(eq=False)
class _Block:
    """The storage of one or more tensors."""

    size: int  # bytes
    kind: str  # a field of Memory
    alive: Any  # weak reference to the storage; its callback records when the storage is freed


class Footprint(TorchDispatchMode):  # type: ignore[no-untyped-call]  # PyTorch's base class has no types
    """Tracks all storages that are created inside its `with` block, which may be entered several times.

    Memory is counted in the order of the CPU's calls. On a GPU, fragmentation needs additional memory, and streams may
    keep storages longer.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.traffic = Traffic()
        self._blocks: dict[int, _Block] = {}
        # The use of a block is often known only after its creation, so a change refers to the block, not to its kind.
        self._changes: list[tuple[_Block, int]] = []

    def hold(self, tensors: Iterable[torch.Tensor], kind: str) -> None:
        """Counts the storages of `tensors` as `kind`, and tracks those that are not tracked yet.

        Args:
            tensors: created inside or outside of the block.
            kind: a field of `Memory`.
        """
        for tensor in tensors:
            self._track(tensor).kind = kind

    def now(self) -> Memory:
        """Returns the current memory."""
        memory = Memory()
        for block in self._blocks.values():
            _add(memory, block, block.size)
        return memory

    def peak(self) -> Memory:
        """Returns the memory at the time of the largest total."""
        total = largest = until = 0
        for index, (_, change) in enumerate(self._changes):
            total += change
            if total > largest:
                largest, until = total, index + 1
        memory = Memory()
        for block, change in self._changes[:until]:
            _add(memory, block, change)
        return memory

    def __enter__(self) -> "Footprint":
        self._resize = torch.UntypedStorage.resize_
        resize, blocks, changes = self._resize, self._blocks, self._changes

        def resize_tracked(storage: torch.UntypedStorage, size: int) -> Any:
            """Tracks FSDP2's resizing of the storages of gathered weights, which a dispatch mode does not see."""
            result = resize(storage, size)
            block = blocks.get(storage._cdata)
            if block is not None:
                block.kind = "gathered"
                changes.append((block, storage.nbytes() - block.size))
                block.size = storage.nbytes()
            return result

        torch.UntypedStorage.resize_ = resize_tracked  # type: ignore[method-assign, assignment]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # DTensor first converts the operation to operations on shards
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._track(tensor)
        name = func.name()
        if name == "c10d::_allgather_base_":
            self._add_traffic("all_gather", args[0], group=args[2])
            self.hold([args[0]], "gathered")
        elif name == "c10d::_reduce_scatter_base_":
            self._add_traffic("reduce_scatter", args[1], group=args[2])
            self.hold([args[1]], "reduced")
            self.hold([args[0]], "gradients")  # FSDP2 uses it as the gradients, or adds it to them
        elif name == "c10d::allreduce_":
            for tensor in args[0]:
                self._add_traffic("all_reduce", tensor, group=args[1], rounds=2)
        elif name == "fsdp::split_with_sizes_copy":
            self.hold(kwargs["out"], "gathered")
        elif name == "aten::cat.out":  # FSDP2 concatenates shards along another dimension than the first
            self.hold([kwargs["out"]], "gathered")
        elif name == "fsdp::chunk_cat":
            self.hold([*args[0], kwargs["out"]], "reduced")
        return out

    def _track(self, tensor: torch.Tensor) -> _Block:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._blocks:
            alive = weakref.ref(storage, lambda _: self._changes.append((block, -self._blocks.pop(key).size)))
            self._blocks[key] = block = _Block(size=storage.nbytes(), kind="activations", alive=alive)
            self._changes.append((block, block.size))
        return self._blocks[key]

    def _add_traffic(self, kind: str, whole: torch.Tensor, *, group: Any, rounds: int = 1) -> None:
        ranks = dist.ProcessGroup.unbox(group).size()
        sent = rounds * whole.numel() * whole.element_size() * (ranks - 1) // ranks
        self.traffic += Traffic(**{kind: sent, "calls": 1})


def _add(memory: Memory, block: _Block, size: int) -> None:
    setattr(memory, block.kind, getattr(memory, block.kind) + size)
