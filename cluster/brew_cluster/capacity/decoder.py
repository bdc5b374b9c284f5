"""The sizes of a decoder that determine its memory and its traffic."""

from dataclasses import dataclass

import torch

from brew_train.config import ModelConfig, ModelShape
from brew_train.model.model import build_model
from brew_train.model.sharding import placement
from brew_train.telemetry.flops import ModelSize

__all__ = ["Decoder"]


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """Numbers of parameters, and widths in elements per token."""

    size: ModelSize
    layers: int
    layer_parameters: int  # of the largest decoder layer
    root_parameters: int  # embeddings, last norm and head
    head_parameters: int  # matrix of the head; the same as the embeddings' if they are tied
    hidden: int
    key_value: int  # key heads · head size; a token's keys and values are twice as many elements in each layer
    experts_per_token: int  # 1 without experts
    inner: int  # inner width of one expert, or of the feed-forward layer
    matrices: frozenset[tuple[int, ...]]  # shapes of the fused experts

    @classmethod
    def of(cls, config: ModelConfig, shape: ModelShape) -> "Decoder":
        """Return the sizes of the model that a training job builds, without allocating its weights.

        Raises:
            UserError: The model in `init_from` is not supported, or its vocabulary or context is too small.
        """
        lm = build_model(config, shape).lm
        layers = lm.get_decoder().layers
        sizes = [sum(parameter.numel() for parameter in layer.parameters()) for layer in layers]
        total = sum(parameter.numel() for parameter in lm.parameters())
        settings = lm.config
        head_size = getattr(settings, "head_dim", None) or settings.hidden_size // settings.num_attention_heads
        routed = getattr(settings, "num_experts_per_tok", None)
        return cls(
            size=ModelSize.of(lm),
            layers=len(layers),
            layer_parameters=max(sizes),
            root_parameters=total - sum(sizes),
            head_parameters=lm.get_output_embeddings().weight.numel(),
            hidden=settings.hidden_size,
            key_value=settings.num_key_value_heads * head_size,
            experts_per_token=routed or 1,
            inner=(routed and getattr(settings, "moe_intermediate_size", None)) or settings.intermediate_size,
            matrices=frozenset(tuple(p.shape) for p in lm.parameters() if p.ndim == 3),
        )

    def require_shards(self, shards: int) -> None:
        """Check that `shards` ranks can share the experts evenly.

        Raises:
            UserError: They cannot; each rank would hold a whole expert.
        """
        for matrix in sorted(self.matrices):
            placement(torch.Size(matrix), shards)

    def key_value_bytes(self, width: int = 2) -> int:
        """Return the bytes of the keys and values of one token in all layers: 2 · layers · key heads · head size.

        Args:
            width: Bytes of an element.
        """
        return 2 * self.layers * self.key_value * width
