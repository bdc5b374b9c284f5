"""The processes that train together, and their collectives (torch.distributed)."""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from brew_platform.errors import BrewError

__all__ = ["DistributedContext"]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class DistributedContext:
    """One process's view of all workers. With `size` 1 collectives do nothing, and on CPU there is no group at all."""

    rank: int = 0
    size: int = 1
    device: torch.device
    replicas: int = 1  # copies of the model; each is sharded over size / replicas workers
    mesh: DeviceMesh | None = None  # ("shard",), or ("replicate", "shard") with several replicas; None: whole model
    side: dist.ProcessGroup | None = None  # gloo group for a background thread's collectives; None where size is 1

    @classmethod
    def current(cls, *, replicas: int = 1) -> "DistributedContext":
        """The world of the process group that torchrun or Ray initialised, else this process alone.

        Each process takes the GPU that LOCAL_RANK names, or the CPU where there is none.

        Args:
            replicas: copies of the model that are requested. Where the number of workers is not a multiple of it (an
                elastic run that lost a node), the largest number of copies that divides both is taken.
        """
        device = torch.device("cpu")
        if torch.cuda.is_available():
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
            torch.cuda.set_device(device)
        size = dist.get_world_size() if dist.is_initialized() else 1
        if not dist.is_initialized() or (size == 1 and device.type == "cpu"):
            return cls(device=device)
        replicas = math.gcd(replicas, size)
        if replicas == 1:
            mesh = init_device_mesh(device.type, (size,), mesh_dim_names=("shard",))
        else:
            shape = (replicas, size // replicas)
            mesh = init_device_mesh(device.type, shape, mesh_dim_names=("replicate", "shard"))
        side = dist.new_group(backend="gloo") if size > 1 else None
        return cls(rank=dist.get_rank(), size=size, device=device, replicas=replicas, mesh=mesh, side=side)

    @classmethod
    @contextmanager
    def from_torchrun(cls, *, replicas: int = 1) -> Iterator["DistributedContext"]:
        """The process group that torchrun's environment describes, closed at the end; without torchrun, one process."""
        if "RANK" not in os.environ:
            yield cls.current()
            return
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        try:
            yield cls.current(replicas=replicas)
        finally:
            dist.destroy_process_group()

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Adds `tensor` over all workers, in place, and returns it."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set on any worker."""
        return bool(self.sum_(torch.tensor(float(flag), device=self.device)).item())

    def gather(self, value: T) -> list[T]:
        """Every worker's `value`, by rank; it must be picklable."""
        values: list[T | None] = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]  # every place was filled

    def on_first(self, make: Callable[[], T]) -> T:
        """What `make` returns on rank 0, on every worker; only rank 0 calls it.

        Args:
            make: returns something picklable.

        Raises:
            BrewError: the one that `make` raised, on every worker, so that none waits for another forever.
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
        for error in self.gather(outcome if isinstance(outcome, BrewError) else None):
            if error is not None:
                raise error
        return outcome  # type: ignore[return-value]  # no error, so it is the T


def _attempt(make: Callable[[], T]) -> T | BrewError:
    try:
        return make()
    except BrewError as error:
        return error
