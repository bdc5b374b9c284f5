"""The processes of a run and their collectives (torch.distributed)."""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from brew_platform.errors import BrewError

__all__ = ["DistributedContext"]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class DistributedContext:
    """Rank and device of this process, and the collectives over all workers, which do nothing if `size` is 1."""

    rank: int = 0
    size: int = 1  # number of workers
    device: torch.device
    replicas: int = 1  # copies of the model, each sharded over size / replicas workers
    mesh: DeviceMesh | None = None  # ("shard",), or ("replicate", "shard") with several replicas; None: whole model
    side: dist.ProcessGroup | None = None  # gloo group for the collectives of a background thread; None if size is 1

    @classmethod
    def current(cls, *, replicas: int = 1) -> "DistributedContext":
        """Returns the context of the process group that torchrun or Ray initialised.

        Without a process group, the context is of one process. Each process uses the GPU with the number LOCAL_RANK, or
        the CPU if there are no GPUs.

        Args:
            replicas: requested copies of the model. If the number of workers is not a multiple of it (an elastic run
                that lost a node), the greatest common divisor of both is used.
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
        """Initialises the process group from torchrun's environment variables, and destroys it at the end of the block.

        Without torchrun, the context is of one process.
        """
        if "RANK" not in os.environ:
            yield cls.current()
            return
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        try:
            yield cls.current(replicas=replicas)
        finally:
            dist.destroy_process_group()

    @contextmanager
    def sharded(self) -> Iterator["DistributedContext"]:
        """Gives a single process a mesh for the time of the block, so that FSDP2 can compute in another precision.

        A context that has a mesh is returned unchanged.
        """
        if self.mesh is not None:
            yield self
            return
        is_own = not dist.is_initialized()
        if is_own:
            backend = "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo"
            store = dist.HashStore()  # type: ignore[attr-defined]  # in this process only: opens no port
            dist.init_process_group(backend, store=store, rank=0, world_size=1)
        try:
            yield replace(self, mesh=init_device_mesh(self.device.type, (1,), mesh_dim_names=("shard",)))
        finally:
            if is_own:
                dist.destroy_process_group()

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sums `tensor` over all workers, in place, and returns it."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Returns whether `flag` is set on any worker."""
        return bool(self.sum_(torch.tensor(float(flag), device=self.device)).item())

    def gather(self, value: T) -> list[T]:
        """Returns the `value` of every worker, by rank; it must be picklable."""
        values: list[T | None] = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]  # all_gather_object has filled it

    def on_first(self, function: Callable[[], T]) -> T:
        """Calls `function` on rank 0, and returns its result on every worker.

        Args:
            function: returns a picklable value.

        Raises:
            BrewError: the error of `function`, on every worker, so that no worker deadlocks.
        """
        outcome = _attempt(function) if self.rank == 0 else None
        if self.size > 1:
            received = [outcome]
            dist.broadcast_object_list(received, src=0)
            (outcome,) = received
        if isinstance(outcome, BrewError):
            raise outcome
        return outcome  # type: ignore[return-value]  # the broadcast T of rank 0

    def on_all(self, function: Callable[[], T]) -> T:
        """Calls `function` on every worker, and returns its result on this worker.

        Raises:
            BrewError: the error of `function` on the first worker that has one, on every worker.
        """
        outcome = _attempt(function)
        for error in self.gather(outcome if isinstance(outcome, BrewError) else None):
            if error is not None:
                raise error
        return outcome  # type: ignore[return-value]  # not an error


def _attempt(function: Callable[[], T]) -> T | BrewError:
    try:
        return function()
    except BrewError as error:
        return error
