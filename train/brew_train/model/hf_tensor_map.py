"""The mapping between parameters of a transformers model and tensors of a Hugging Face checkpoint.

transformers 5 keeps the experts of a layer in two fused parameters, gate_up_proj [E, 2I, H] and down_proj [E, H, I],
but its checkpoints, and vLLM, keep one matrix per expert and projection (transformers' conversion_mapping.py). All
other parameters have their own name there, but that Mixtral calls its block of experts differently.
Legend: E experts, I their inner width, H hidden size.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["FAMILIES", "TensorRegion", "tensor_regions"]

DENSE = ("llama", "mistral", "qwen2", "qwen3")
EXPERTS = {  # model type -> block of experts, and the names of gate, up and down projection
    "mixtral": ("block_sparse_moe", "w1", "w3", "w2"),
    "qwen2_moe": ("mlp", "gate_proj", "up_proj", "down_proj"),
    "qwen3_moe": ("mlp", "gate_proj", "up_proj", "down_proj"),
}
FAMILIES = (*DENSE, *EXPERTS)
"""Values of `model_type` in config.json that are known here."""

_LAYER = re.compile(r"(?P<layer>.*\.layers\.\d+)\.mlp\.(?P<rest>.+)")


@dataclass(frozen=True, kw_only=True)
class TensorRegion:
    """One tensor of a checkpoint as a region of a parameter."""

    name: str  # of the tensor
    shape: tuple[int, ...]  # of the tensor; a parameter with one dimension more has size 1 there
    offset: tuple[int, ...]  # where the region starts, in the parameter's dimensions

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def extent(self) -> tuple[int, ...]:
        """The region's size, in the parameter's dimensions."""
        return (1,) * (len(self.offset) - len(self.shape)) + self.shape


def tensor_regions(parameter: str, shape: Sequence[int], model_type: str) -> list[TensorRegion]:
    """The tensors that make up a parameter, in the order of its experts.

    Args:
        parameter: name in the causal LM, as in `lm.named_parameters()`.
        shape: of the whole parameter.
        model_type: one of `FAMILIES`.

    Returns:
        Regions that fill the parameter and do not overlap.
    """
    whole = TensorRegion(name=parameter, shape=tuple(shape), offset=(0,) * len(shape))
    found = _LAYER.fullmatch(parameter)
    if model_type in DENSE or found is None:
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
