"""The GPUs that a plan is for: those of a group of the cluster definition."""

from dataclasses import replace

from brew_cluster.capacity.bounds import Bounds
from brew_cluster.definition.config import NodeGroup
from brew_platform.errors import UserError
from brew_train.diagnostics.dry_run_report import Gpu
from brew_train.telemetry.flops import peak_flops

__all__ = ["gpu_of", "price_of"]


def gpu_of(name: str, group: NodeGroup) -> Gpu:
    """Return the GPU of a group of nodes; what the group does not say is that of an H100 SXM with 400 Gb/s.

    Args:
        name: Name of the group, for the message.
        group: The group.

    Raises:
        UserError: The group has no GPUs, or its type is unknown.
    """
    if not group.gpus:
        raise UserError(f"the group {name} has no GPUs (gpus: 0): choose another with --group, or set gpus.")
    gpu = replace(Gpu(), per_node=group.gpus)
    if group.gpu_type is not None:
        flops = peak_flops(group.gpu_type)
        if flops is None:
            raise UserError(
                f"the peak FLOP/s of gpu_type {group.gpu_type!r} of the group {name} are not known: use H100, H200, "
                f"B200 or another name of brew_train.telemetry.flops.PEAKS."
            )
        gpu = replace(gpu, name=f"a GPU of {name} ({group.gpu_type})", flops=flops)
    if group.gpu_memory_gib is not None:
        gpu = replace(gpu, memory=group.gpu_memory_gib * 2**30)
    if group.network_gbits_per_s is not None:
        gpu = replace(gpu, bandwidth=group.network_gbits_per_s * 1e9 / 8 / group.gpus)
    return gpu


def price_of(group: NodeGroup) -> Bounds | None:
    """Return the price of one GPU of a group for an hour, or None."""
    return None if group.price_per_hour is None else Bounds.exact(group.price_per_hour / group.gpus)
