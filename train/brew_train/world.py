"""The processes that train together: the one seam to torch.distributed.

Owns: rank, size, device, mesh, and the collectives that the loop needs outside the model. Does not own: starting
processes (torchrun or Ray do), or the collectives of FSDP2.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from brew_platform.errors import BrewError

__all__ = ["World"]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class World:
    """One process's view of all workers. With `size` 1 there is no process group, and collectives do nothing."""

    rank: int = 0
    size: int = 1
    device: torch.device
    mesh: DeviceMesh | None = None  # one dimension "shard" over all workers; None where size is 1

    @classmethod
    def current(cls) -> "World":
        """The world of the process group that torchrun or Ray initialised, else this process alone.

        Each process takes the GPU that LOCAL_RANK names, or the CPU where there is none.
        """
        device = torch.device("cpu")
        if torch.cuda.is_available():
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
            torch.cuda.set_device(device)
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return cls(device=device)
        size = dist.get_world_size()
        mesh = init_device_mesh(device.type, (size,), mesh_dim_names=("shard",))
        return cls(rank=dist.get_rank(), size=size, device=device, mesh=mesh)

    @classmethod
    @contextmanager
    def from_torchrun(cls) -> Iterator["World"]:
        """The process group that torchrun's environment describes, closed at the end; without torchrun, one process."""
        if "RANK" not in os.environ:
            yield cls.current()
            return
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        try:
            yield cls.current()
        finally:
            dist.destroy_process_group()

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Adds `tensor` over all workers, in place, and returns it."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def on_first(self, make: Callable[[], T]) -> T:
        """What `make` returns on rank 0, on every worker; only rank 0 calls it.

        Args:
            make: returns something picklable.

        Raises:
            BrewError: the one that `make` raised, on every worker, so that none waits for another in vain.
        """
        outcome = _attempt(make) if self.rank == 0 else None
        if self.size > 1:
            box = [outcome]
            dist.broadcast_object_list(box, src=0)
            (outcome,) = box
        if isinstance(outcome, BrewError):
            raise outcome
        return outcome  # type: ignore[return-value]  # rank 0's T by now

    def on_all(self, make: Callable[[], T]) -> T:
        """What `make` returns on this worker; every worker calls it.

        Raises:
            BrewError: that of the first worker on which `make` raised one, on every worker.
        """
        outcome = _attempt(make)
        error = outcome if isinstance(outcome, BrewError) else None
        errors = [error]
        if self.size > 1:
            errors = [None] * self.size
            dist.all_gather_object(errors, error)
        for first in errors:
            if first is not None:
                raise first
        return outcome  # type: ignore[return-value]  # no error, so it is the T


def _attempt(make: Callable[[], T]) -> T | BrewError:
    try:
        return make()
    except BrewError as error:
        return error
