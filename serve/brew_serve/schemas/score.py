"""Probabilities of label tokens, in the protocols of SGLang's `/v1/score` and of vLLM's `/generative_scoring`.

Source: `ScoringRequest` and `ScoringResponse` of SGLang's OpenAI entry point; `GenerativeScoringRequest` and
`GenerativeScoringResponse` of vLLM 0.32. Both differ from the score of `ranking.scoring`: they read the
probability of one token after text that the caller composed.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from brew_serve.schemas.openai import MAX_CHARACTERS, MAX_IDS, Lenient, TokenId, Words
from brew_serve.schemas.openai_answers import TextUsage
from brew_serve.schemas.rank import MAX_CANDIDATES, Probability, RoutingKey

__all__ = [
    "GenerativeScoringRequest",
    "GenerativeScoringResponse",
    "ItemScore",
    "ScoreRequest",
    "ScoreResponse",
]

MAX_PROBABILITIES = 100_000  # of a response: items times labels; 2 MB of JSON

Ids = Annotated[list[TokenId], Field(max_length=MAX_IDS, fail_fast=True)]
Texts = Annotated[list[Words], Field(min_length=1, max_length=MAX_CANDIDATES, fail_fast=True)]
IdLists = Annotated[list[Ids], Field(min_length=1, max_length=MAX_CANDIDATES, fail_fast=True)]
Labels = Annotated[list[TokenId], Field(min_length=1, max_length=1_000, fail_fast=True)]
ModelName = Annotated[str, Field(max_length=200)]


def _require_few_probabilities(items: int, labels: int) -> None:
    if items * labels > MAX_PROBABILITIES:
        raise ValueError(
            f"{items} items with {labels} labels are {items * labels} probabilities, but a request can ask for "
            f"{MAX_PROBABILITIES}; send fewer items or labels per request"
        )


class ScoreRequest(Lenient):
    """SGLang: the probability of each label token after query and item."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "query": "The capital of France is",
                    "items": ["Paris", "Berlin"],
                    "label_token_ids": [7, 8],
                    "apply_softmax": True,
                    "model": "brew360",
                }
            ]
        }
    )
    query: Words | Ids = Field(description="text or token ids; query and items must be of the same kind")
    items: Annotated[str, Field(max_length=MAX_CHARACTERS)] | Texts | IdLists = Field(
        description="a single text counts as one item"
    )
    label_token_ids: Labels
    apply_softmax: bool = Field(default=False, description="normalise over the labels, not over the vocabulary")
    item_first: bool = Field(default=False, description="item before query")
    model: ModelName = "default"
    routing_key: RoutingKey = None

    @model_validator(mode="after")
    def _check(self) -> "ScoreRequest":
        _require_few_probabilities(1 if isinstance(self.items, str) else len(self.items), len(self.label_token_ids))
        return self


class ScoreResponse(BaseModel):
    """SGLang: one list per item, in the order of label_token_ids."""

    scores: list[list[Probability]]
    model: str
    usage: TextUsage
    object: Literal["scoring"] = "scoring"


class GenerativeScoringRequest(Lenient):
    """vLLM: the probability of the first label token after query and item.

    A prompt that is too long is an error. vLLM 0.32 truncates it instead, which removes the cue of the answer.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "brew360",
                    "query": "Is this city the capital of France?",
                    "items": ["Paris", "London", "Berlin"],
                    "label_token_ids": [7, 8],
                }
            ]
        }
    )
    model: ModelName | None = None
    query: Words | Ids
    items: Texts | IdLists
    label_token_ids: Labels
    apply_softmax: bool = True
    item_first: bool = False
    add_special_tokens: bool = Field(
        default=True,
        description="put the token that starts a text before the prompt, if the model was trained with one",
    )
    request_id: Annotated[str, Field(max_length=128)] | None = Field(
        default=None, description="becomes part of the response id"
    )
    routing_key: RoutingKey = None

    @model_validator(mode="after")
    def _check(self) -> "GenerativeScoringRequest":
        _require_few_probabilities(len(self.items), len(self.label_token_ids))
        return self


class ItemScore(BaseModel):
    """vLLM: the score of one item."""

    index: int
    object: Literal["score"] = "score"
    score: Probability


class GenerativeScoringResponse(BaseModel):
    """vLLM: one score per item, in the order of the items."""

    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    data: list[ItemScore]
    usage: TextUsage
