"""OpenAI's models, completions and chat completions: paths, and the supported part of requests.

A key that would change the answer and is not supported, and a key that is not OpenAI's, is an error that names it. Keys
without an effect on the answer are accepted, and null stands for the default of every optional key.

Source: OpenAI's API reference; checked with the client `openai` 3.54.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Tag,
    ValidationInfo,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from brew_serve.schemas.rank import Closed

__all__ = [
    "ChatMessage",
    "ChatRequest",
    "CompletionRequest",
    "Lenient",
    "ModelQuery",
    "TokenId",
    "is_openai_path",
]

MODELS_PATH, COMPLETIONS_PATH, CHAT_PATH = "/v1/models", "/v1/completions", "/v1/chat/completions"
MODEL_PATH = "/v1/models/{model:path}"  # an id can contain a slash
PATHS = frozenset({MODELS_PATH, MODEL_PATH, COMPLETIONS_PATH, CHAT_PATH})

MAX_TOKENS = 256  # tokens of an answer; low, because the service is built for ranking
MAX_PROMPTS = 64
MAX_CHARACTERS = 200_000  # of all prompts or messages of a request
MAX_IDS = 100_000  # of all prompts of a request
MAX_STOPS = 16

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
TokenIds = Annotated[list[TokenId], Field(min_length=1, max_length=MAX_IDS, fail_fast=True)]
Words = Annotated[str, Field(max_length=MAX_CHARACTERS)]
Prompt = Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS)]
Stop = Annotated[str, Field(min_length=1, max_length=500)]
Ignored = Annotated[Any, Field(description="accepted; has no effect")]


def is_openai_path(path: str) -> bool:
    """Return whether errors of a request for `path` have OpenAI's form."""
    return path in PATHS or path.startswith(f"{MODELS_PATH}/")


class Lenient(Closed):
    """Base of request models in which null stands for the default of an optional key, as in OpenAI's API."""

    @model_validator(mode="before")
    @classmethod
    def _remove_nulls(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data  # pydantic refuses it
        return {name: value for name, value in data.items() if value is not None or name not in cls.model_fields}

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        document = handler(schema)
        properties = handler.resolve_ref_schema(document)
        for name in properties["properties"].keys() - set(properties.get("required", ())):
            field = properties["properties"][name]
            outer = {key: field.pop(key) for key in ("title", "description", "default") if key in field}
            if field and {"type": "null"} not in field.get("anyOf", []):
                field = {"anyOf": [field, {"type": "null"}]}
            properties["properties"][name] = {**field, **outer}
        return document


class Only:
    """Type of a key that would change the answer and is not supported: only values without effect are accepted.

    Args:
        values: The values that have no effect. Without any, only null is accepted.
    """

    def __init__(self, *values: Any) -> None:
        self.values = values

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        description = "not supported, except for values that change nothing"
        return {**({"enum": list(self.values)} if self.values else {"type": "null"}), "description": description}

    def _check(self, value: Any, info: ValidationInfo) -> Any:
        if any(value == neutral and isinstance(value, bool) == isinstance(neutral, bool) for neutral in self.values):
            return value
        hint = f", or send {' or '.join(map(repr, self.values))}" if self.values else ""
        raise ValueError(f"{info.field_name} changes the answer and is not supported here; leave it out{hint}")


class StreamOptions(Lenient):
    """What a stream contains beside the text."""

    include_usage: bool = Field(default=False, description="the last event before [DONE] has the usage")
    include_obfuscation: Ignored = None


def _str_or_list(value: Any) -> str:
    return "list[str]" if isinstance(value, list) else "str"


class _Generate(Lenient):
    model: str = Field(max_length=200, description="an id that GET /v1/models lists")
    temperature: float = Field(default=1.0, ge=0, le=2, allow_inf_nan=False, description="values below .01 count as 0")
    top_p: float = Field(default=1.0, ge=0, le=1, allow_inf_nan=False, description="0 takes the likeliest token")
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: Annotated[
        Annotated[Stop, Tag("str")]
        | Annotated[list[Stop], Field(max_length=MAX_STOPS, fail_fast=True), Tag("list[str]")],
        Discriminator(_str_or_list),
    ] = Field(default_factory=list, description="the text ends before the first of these that it would contain")
    stream: bool = Field(default=False, description="answer with server-sent events, which end with [DONE]")
    stream_options: StreamOptions | None = None
    user: Annotated[str, Field(max_length=500)] | None = Field(
        default=None, description="the end user: requests with the same one get the same version and replica"
    )
    n: Annotated[Any, Only(1)] = None
    frequency_penalty: Annotated[Any, Only(0)] = None
    presence_penalty: Annotated[Any, Only(0)] = None
    logit_bias: Annotated[Any, Only({})] = None
    metadata: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_options: Ignored = None
    prompt_cache_retention: Ignored = None
    safety_identifier: Ignored = None
    service_tier: Ignored = None
    store: Ignored = None

    @property
    def stops(self) -> list[str]:
        """The stop strings."""
        return [self.stop] if isinstance(self.stop, str) else self.stop

    @model_validator(mode="after")
    def _stream_options_need_a_stream(self) -> "_Generate":
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream: true; set it, or leave stream_options out")
        return self


def _prompt_kind(value: Any) -> str:
    if not isinstance(value, list):
        return "str"
    first = value[0] if value else ""
    if isinstance(first, list):
        return "list[list]"
    return "list[str]" if isinstance(first, str) else "list[int]"


class CompletionRequest(_Generate):
    """Continue each prompt."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"model": "brew360", "prompt": "A nurse in", "max_tokens": 4, "temperature": 0, "logprobs": 1}]
        }
    )
    prompt: Annotated[
        Annotated[Prompt, Tag("str")]
        | Annotated[TokenIds, Tag("list[int]")]
        | Annotated[list[Prompt], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True), Tag("list[str]")]
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True), Tag("list[list]")],
        Discriminator(_prompt_kind),
    ] = Field(description="text, which is encoded without control tokens; or token ids; or a list of either")
    max_tokens: int = Field(default=16, ge=1, le=MAX_TOKENS)
    logprobs: int | None = Field(
        default=None, ge=0, le=5, description="alternatives per token, beside the generated token"
    )
    echo: bool = Field(default=False, description="put the prompt before the text; not with logprobs")
    best_of: Annotated[Any, Only(1)] = None
    suffix: Annotated[Any, Only("")] = None

    @property
    def prompts(self) -> Sequence[str | list[int]]:
        """The prompts as a list."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        return [self.prompt] if isinstance(self.prompt[0], int) else self.prompt

    @model_validator(mode="after")
    def _check_sizes(self) -> "CompletionRequest":
        _check_total(len(prompt) for prompt in self.prompts if isinstance(prompt, str))
        total = sum(len(prompt) for prompt in self.prompts if not isinstance(prompt, str))
        if total > MAX_IDS:
            raise ValueError(f"the prompts have {total} token ids; send at most {MAX_IDS} in one request")
        if self.echo and self.logprobs is not None:
            raise ValueError("echo and logprobs together need the prompt's log-probabilities; send one of the two")
        return self


class TextPart(Lenient):
    """A part of a message."""

    type: Literal["text"]
    text: Words
    prompt_cache_breakpoint: Ignored = None


class ChatMessage(Lenient):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        Annotated[Words, Tag("str")]
        | Annotated[list[TextPart], Field(min_length=1, max_length=100, fail_fast=True), Tag("list[str]")],
        Discriminator(_str_or_list),
    ]
    name: Annotated[Any, Only()] = None
    refusal: Annotated[Any, Only()] = None
    audio: Annotated[Any, Only()] = None
    tool_calls: Annotated[Any, Only([])] = None
    function_call: Annotated[Any, Only()] = None
    annotations: Ignored = None  # of an answer that is sent back

    def words(self) -> str:
        """Return the content as one text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(_Generate):
    """Answer the last message of a chat."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "brew360",
                    "messages": [
                        {"role": "system", "content": "Predict whether the member applies."},
                        {"role": "user", "content": "job welder"},
                    ],
                    "max_tokens": 4,
                    "temperature": 0,
                }
            ]
        }
    )
    messages: list[ChatMessage] = Field(fail_fast=True, min_length=1, max_length=1_000)
    max_tokens: int | None = Field(
        default=None, ge=1, le=MAX_TOKENS, description="default 16, or max_completion_tokens"
    )
    max_completion_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    logprobs: bool = False
    top_logprobs: int = Field(default=0, ge=0, le=20, description="likeliest tokens per position; needs logprobs")
    tools: Annotated[Any, Only([])] = None
    tool_choice: Annotated[Any, Only("none", "auto")] = None
    functions: Annotated[Any, Only([])] = None
    function_call: Annotated[Any, Only("none", "auto")] = None
    response_format: Annotated[Any, Only({"type": "text"})] = None
    modalities: Annotated[Any, Only(["text"])] = None
    audio: Annotated[Any, Only()] = None
    moderation: Annotated[Any, Only()] = None
    reasoning_effort: Annotated[Any, Only("none")] = None
    verbosity: Annotated[Any, Only("medium")] = None
    web_search_options: Annotated[Any, Only()] = None
    parallel_tool_calls: Ignored = None
    prediction: Ignored = None

    @model_validator(mode="after")
    def _check_sizes(self) -> "ChatRequest":
        _check_total(len(message.words()) for message in self.messages)
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true; set it, or leave top_logprobs out")
        return self


class ModelQuery(BaseModel):
    """The id in the path of a request for one model."""

    model: str


def _check_total(lengths: Iterable[int]) -> None:
    total = sum(lengths)
    if total > MAX_CHARACTERS:
        raise ValueError(f"the texts have {total} characters; send at most {MAX_CHARACTERS} in one request")
