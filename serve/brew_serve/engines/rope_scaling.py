"""NTK-aware scaling of a model's rotary embedding, which extends the context at load time without training.

A rotary embedding rotates the i-th pair of a head's d dimensions by position times theta^(-2i/d). NTK-aware scaling
raises the base instead of dividing positions. The fastest pair rotates as in training, so neighbouring tokens remain
equally distinguishable. The slowest pair rotates alpha times slower, so alpha times as many positions stay within the
angles of training:

    theta' = theta * alpha^(d / (d - 2))

Source: "NTK-Aware Scaled RoPE" (bloc97, r/LocalLLaMA, June 2023); YaRN, arXiv 2309.00071, section 3.1, equation 14.

All engines use the resulting overrides of the model's config.json.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from brew_platform.errors import UserError
from brew_platform.settings import PositiveFloat, PositiveInt, Range, Settings

__all__ = ["RopeScaling", "context_of", "rope_overrides", "scaled_theta"]


@dataclass(frozen=True, kw_only=True)
class RopeScaling(Settings):
    """Scaling of a model's rotary embedding at inference."""

    # The context becomes this many times original_length; 1 changes nothing.
    alpha: Annotated[float, Range(ge=1, le=1_000)]
    original_length: PositiveInt | None = None  # context length in training, in tokens; None: max_position_embeddings
    theta: PositiveFloat | None = None  # base in training; None: the base in config.json


def scaled_theta(theta: float, *, alpha: float, dimensions: int) -> float:
    """Return the base that extends the context by the factor `alpha`, by the formula of this module.

    Args:
        theta: Base in training.
        alpha: Factor of the context length, 1 or more.
        dimensions: Rotated dimensions of a head, more than 2.
    """
    return float(theta * alpha ** (dimensions / (dimensions - 2)))


def context_of(model: Mapping[str, Any], rope: RopeScaling | None) -> int:
    """Return the context length of a model, in tokens.

    Args:
        model: Content of its config.json.
        rope: Scaling of its rotary embedding; None without scaling.

    Raises:
        KeyError, TypeError, ValueError: config.json does not contain it.
    """
    if rope is None:
        return int(model["max_position_embeddings"])
    return int((rope.original_length or int(model["max_position_embeddings"])) * rope.alpha)


def rope_overrides(model: Mapping[str, Any], rope: RopeScaling | None) -> dict[str, Any]:
    """Return the entries of config.json to replace, in the form of transformers 5.

    Args:
        model: Content of its config.json.
        rope: Scaling of its rotary embedding; None without scaling.

    Returns:
        `rope_parameters` and `max_position_embeddings`; empty without scaling.

    Raises:
        UserError: The model already scales its rotary embedding, or its base is unknown.
    """
    if rope is None:
        return {}
    parameters = dict(model.get("rope_parameters") or model.get("rope_scaling") or {})
    if any(isinstance(value, Mapping) for value in parameters.values()) or model.get("rope_local_base_freq"):
        raise UserError(
            f"rope.alpha is {rope.alpha}, but the model has a rotary embedding for each type of layer, which cannot be "
            f"scaled as one. Remove engine.rope."
        )
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind != "default":
        raise UserError(
            f"rope.alpha is {rope.alpha}, but the model already scales its rotary embedding (rope_type {kind!r}), and "
            f"the two cannot be combined. Remove engine.rope, or export the model without its own scaling."
        )
    theta = rope.theta or parameters.get("rope_theta") or model.get("rope_theta")
    if theta is None:
        raise UserError(
            "config.json has no rope_theta, so it cannot be scaled. Set engine.rope.theta to the base of training."
        )
    size = model.get("head_dim") or model["hidden_size"] // model["num_attention_heads"]
    dimensions = int(size * parameters.get("partial_rotary_factor", 1.0))
    if dimensions <= 2:
        raise UserError(
            f"the model rotates {dimensions} dimensions of a head, which is too few to scale. Remove engine.rope."
        )
    return {
        "rope_parameters": {
            **parameters,
            "rope_type": "default",
            "rope_theta": scaled_theta(theta, alpha=rope.alpha, dimensions=dimensions),
        },
        "max_position_embeddings": context_of(model, rope),
    }
