"""Prompts longer than a model was trained on, without training: its rotary embedding scaled when it is loaded.

A rotary embedding turns the i-th pair of a head's d dimensions by position times theta^(-2i/d). NTK-aware scaling
raises the base instead of dividing positions: the fastest pair turns exactly as in training, so that neighbouring
tokens stay as far apart, and the slowest pair turns alpha times slower, so that alpha times as many positions stay
within the angles that it saw in training:

    theta' = theta * alpha^(d / (d - 2))

Source: "NTK-Aware Scaled RoPE" (bloc97, r/LocalLLaMA, June 2023); YaRN, arXiv 2309.00071, section 3.1, equation 14.

Holds that formula, and what it changes in a model's config.json, the same for every engine.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from brew_platform.errors import ConfigError, UserError

__all__ = ["RopeScaling", "context_of", "rope_overrides", "scaled_theta"]


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How a model's rotary embedding is scaled at inference."""

    alpha: float  # the context becomes this many times original_length; 1 changes nothing
    original_length: int | None = None  # tokens that the model was trained on; None: its max_position_embeddings
    theta: float | None = None  # base that it was trained with; None: its config.json's

    def __post_init__(self) -> None:
        if not self.alpha >= 1:
            raise ConfigError(
                f"rope.alpha is {self.alpha}; give 1 or more: the context becomes that many times longer."
            )
        if self.original_length is not None and self.original_length < 1:
            raise ConfigError(f"rope.original_length is {self.original_length}; give a number of tokens, or null.")
        if self.theta is not None and not self.theta > 0:
            raise ConfigError(f"rope.theta is {self.theta}; give a number greater than 0, or null.")


def scaled_theta(theta: float, *, alpha: float, dimensions: int) -> float:
    """The base that makes `alpha` times the trained context readable; the formula at the head of this file.

    Args:
        theta: base in training.
        dimensions: of a head that are rotated, more than 2.
    """
    return float(theta * alpha ** (dimensions / (dimensions - 2)))


def context_of(model: Mapping[str, Any], rope: RopeScaling | None) -> int:
    """Tokens that a model reads.

    Args:
        model: its config.json.

    Raises:
        KeyError, TypeError, ValueError: config.json does not say.
    """
    if rope is None:
        return int(model["max_position_embeddings"])
    return int((rope.original_length or int(model["max_position_embeddings"])) * rope.alpha)


def rope_overrides(model: Mapping[str, Any], rope: RopeScaling | None) -> dict[str, Any]:
    """What replaces entries of config.json: `rope_parameters` as transformers 5 has them, `max_position_embeddings`.

    Args:
        model: its config.json.

    Raises:
        UserError: the model scales its rotary embedding already, or its base is not known.
    """
    if rope is None:
        return {}
    given = dict(model.get("rope_parameters") or model.get("rope_scaling") or {})
    kind = given.get("rope_type", given.get("type", "default"))
    if kind != "default":
        raise UserError(
            f"rope.alpha is {rope.alpha}, but the model scales its rotary embedding already (rope_type {kind!r}), and "
            f"the two do not add up. Leave engine.rope out, or export the model without its own scaling."
        )
    theta = rope.theta or given.get("rope_theta") or model.get("rope_theta")
    if theta is None:
        raise UserError(
            "config.json names no rope_theta, so it cannot be scaled. Give the base of training as engine.rope.theta."
        )
    size = model.get("head_dim") or model["hidden_size"] // model["num_attention_heads"]
    dimensions = int(size * given.get("partial_rotary_factor", 1.0))
    if dimensions <= 2:
        raise UserError(
            f"the model rotates {dimensions} dimensions of a head, too few to scale. Leave engine.rope out."
        )
    return {
        "rope_parameters": {
            **given,
            "rope_type": "default",
            "rope_theta": scaled_theta(theta, alpha=rope.alpha, dimensions=dimensions),
        },
        "max_position_embeddings": context_of(model, rope),
    }
