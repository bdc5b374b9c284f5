"""RMSNorm on CPU with vLLM's compiled CPU kernels.

In eager mode vLLM computes the norm in six PyTorch operations on CPU, which take a tenth of a small model's forward.
Importing this module requires vLLM.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor
from vllm import ir

__all__ = ["compiled_norms"]

_PROVIDER = "brew_cpu"


@contextmanager
def compiled_norms(device: torch.device) -> Iterator[None]:
    """Use the compiled kernels for forward passes inside the block, if the device is a CPU."""
    if device.type != "cpu":
        yield
        return
    _register()
    with (
        ir.ops.rms_norm.set_priority([_PROVIDER, "native"]),
        ir.ops.fused_add_rms_norm.set_priority([_PROVIDER, "native"]),
    ):
        yield


@cache
def _register() -> None:
    @ir.ops.rms_norm.register_impl(
        _PROVIDER, supports_args=lambda x, weight, epsilon, variance_size=None: _plain(x, weight, variance_size)
    )
    def rms_norm(x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None) -> Tensor:
        output = torch.empty_like(x)
        torch.ops._C.rms_norm(output, x, weight, epsilon)
        return output

    @ir.ops.fused_add_rms_norm.register_impl(
        _PROVIDER,
        supports_args=lambda x, x_residual, weight, epsilon, variance_size=None: _plain(x, weight, variance_size),
        inplace=True,
    )
    def fused_add_rms_norm(
        x: Tensor, x_residual: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
    ) -> tuple[Tensor, Tensor]:
        torch.ops._C.fused_add_rms_norm(x, x_residual, weight, epsilon)
        return x, x_residual


def _plain(x: Tensor, weight: Tensor | None, variance_size: int | None) -> bool:
    return variance_size is None and weight is not None and weight.dtype == x.dtype and x.is_contiguous()
