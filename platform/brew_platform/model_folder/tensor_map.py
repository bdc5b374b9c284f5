"""The mapping between parameters of a transformers model and tensors of a Hugging Face checkpoint.

transformers 5 stores the experts of a layer in two fused parameters, gate_up_proj [E, 2I, H] and down_proj [E, H, I].
Its checkpoints and vLLM have one matrix per expert and projection (transformers' conversion_mapping.py). All other
parameters have the same name in both, except that Mixtral has another name for the block of experts.
Legend: E experts, I their inner width, H hidden size.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["TensorRegion", "tensor_regions"]

EXPERTS = {  # model type -> block of experts, and the names of gate, up and down projection
    "mixtral": ("block_sparse_moe", "w1", "w3", "w2"),
    "qwen2_moe": ("mlp", "gate_proj", "up_proj", "down_proj"),
    "qwen3_moe": ("mlp", "gate_proj", "up_proj", "down_proj"),
}

_LAYER = re.compile(r"(?P<layer>.*\.layers\.\d+)\.mlp\.(?P<rest>.+)")


@dataclass(frozen=True, kw_only=True)
class TensorRegion:
    """A tensor of a checkpoint and the region of the parameter that it fills."""

    name: str  # name of the tensor
    shape: tuple[int, ...]  # shape of the tensor; the region has size 1 in an additional leading dimension
    offset: tuple[int, ...]  # start of the region, in the parameter's dimensions

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def extent(self) -> tuple[int, ...]:
        """Size of the region, in the parameter's dimensions."""
        return (1,) * (len(self.offset) - len(self.shape)) + self.shape


def tensor_regions(parameter: str, shape: Sequence[int], model_type: str) -> list[TensorRegion]:
    """Returns the tensors that a parameter consists of, in the order of its experts.

    Args:
        parameter: name in the causal LM, as in `lm.named_parameters()`.
        shape: shape of the whole parameter.
        model_type: of the model, a name in `families.FAMILIES`.

    Returns:
        Regions that cover the parameter and do not overlap.
    """
    whole = TensorRegion(name=parameter, shape=tuple(shape), offset=(0,) * len(shape))
    found = _LAYER.fullmatch(parameter)
    if model_type not in EXPERTS or found is None:
        return [whole]
    block, gate, up, down = EXPERTS[model_type]
    layer, rest = f"{found['layer']}.{block}", found["rest"]
    projections: tuple[str, ...]
    if rest == "experts.gate_up_proj":
        projections = gate, up
    elif rest == "experts.down_proj":
        projections = (down,)
    else:
        return [TensorRegion(name=f"{layer}.{rest}", shape=whole.shape, offset=whole.offset)]
    rows = shape[1] // len(projections)
    return [
        TensorRegion(
            name=f"{layer}.experts.{expert}.{projection}.weight",
            shape=(rows, shape[2]),
            offset=(expert, index * rows, 0),
        )
        for expert in range(shape[0])
        for index, projection in enumerate(projections)
    ]
