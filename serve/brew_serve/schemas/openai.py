"""OpenAI's models, completions and chat completions: paths, and the supported part of their bodies.

An unsupported key is an error that names it. Source: OpenAI's API reference; checked with the client `openai` 3.54.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from brew_serve.schemas.rank import Closed

__all__ = [
    "ChatChoice",
    "ChatLogprobs",
    "ChatMessage",
    "ChatRequest",
    "ChatResponse",
    "ChatTokenLogprob",
    "ChatTopLogprob",
    "Choice",
    "CompletionRequest",
    "CompletionResponse",
    "Logprobs",
    "ModelCard",
    "ModelList",
    "OpenAIErrorAnswer",
    "TextUsage",
    "TokenId",
]

MODELS_PATH, COMPLETIONS_PATH, CHAT_PATH = "/v1/models", "/v1/completions", "/v1/chat/completions"
PATHS = frozenset({MODELS_PATH, COMPLETIONS_PATH, CHAT_PATH})

MAX_TOKENS = 256  # tokens of an answer; low, because the service is built for ranking
MAX_PROMPTS = 64
MAX_CHARACTERS = 200_000
MAX_IDS = 100_000

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
TokenIds = Annotated[list[TokenId], Field(min_length=1, max_length=MAX_IDS)]
Words = Annotated[str, Field(max_length=MAX_CHARACTERS)]
Prompt = Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS)]


class _Generate(Closed):
    model: str = Field(max_length=200, description="an id that GET /v1/models lists")
    temperature: float = Field(default=1.0, ge=0, le=2, allow_inf_nan=False, description="values below .01 count as 0")
    top_p: float = Field(default=1.0, gt=0, le=1, allow_inf_nan=False)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    n: Literal[1] = 1
    stream: Literal[False] = False
    user: Annotated[str, Field(max_length=500)] | None = Field(
        default=None, description="the end user: requests with the same one get the same version and replica"
    )


class CompletionRequest(_Generate):
    """Continue each prompt."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"model": "brew360", "prompt": "A nurse in", "max_tokens": 4, "temperature": 0, "logprobs": 1}]
        }
    )
    prompt: (
        Prompt
        | TokenIds
        | Annotated[list[Prompt], Field(min_length=1, max_length=MAX_PROMPTS)]
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS)]
    ) = Field(description="text, which is encoded without control tokens; or token ids; or a list of either")
    max_tokens: int = Field(default=16, ge=1, le=MAX_TOKENS)
    logprobs: int | None = Field(default=None, ge=0, le=5, description="alternatives per token")
    echo: Literal[False] = False


class TextPart(Closed):
    """A part of a message."""

    type: Literal["text"]
    text: Words


class ChatMessage(Closed):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Words | Annotated[list[TextPart], Field(max_length=100)]

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
    messages: list[ChatMessage] = Field(min_length=1, max_length=1_000)
    max_tokens: int | None = Field(
        default=None, ge=1, le=MAX_TOKENS, description="default 16, or max_completion_tokens"
    )
    max_completion_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    logprobs: bool = False
    top_logprobs: int = Field(default=0, ge=0, le=20)


class TextUsage(BaseModel):
    """Numbers of tokens read and generated."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Logprobs(BaseModel):
    """Log-probabilities of a completion, one entry per token."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class Choice(BaseModel):
    """Continuation of one prompt."""

    index: int
    text: str
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length"]


class CompletionResponse(BaseModel):
    """One choice per prompt, in the order of the prompts."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[Choice]
    usage: TextUsage


class ChatTopLogprob(BaseModel):
    """An alternative token at a position."""

    token: str
    logprob: float
    bytes: list[int] | None = Field(description="UTF-8 bytes; null if the token is part of a character")


class ChatTokenLogprob(ChatTopLogprob):
    """The generated token at a position, with its alternatives."""

    top_logprobs: list[ChatTopLogprob]


class ChatLogprobs(BaseModel):
    """Log-probabilities of an answer, one entry per token."""

    content: list[ChatTokenLogprob]
    refusal: None = None


class ChatAnswer(BaseModel):
    """The assistant's message."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    """The answer to a chat."""

    index: int
    message: ChatAnswer
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"]


class ChatResponse(BaseModel):
    """Response to a chat; it has one choice."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: TextUsage


class ModelCard(BaseModel):
    """A name that requests can use as `model`."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["brew360"] = "brew360"
    max_model_len: int = Field(description="context length: tokens of prompt and answer")


class ModelList(BaseModel):
    """The names of the served model."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class OpenAIError(BaseModel):
    """An error in OpenAI's form, as OpenAI's clients show it."""

    message: str = Field(description="one sentence that says what to do")
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"]
    param: None = None
    code: str = Field(description="stable, for programs; as in errors of the other routes")


class OpenAIErrorAnswer(BaseModel):
    """Error response in OpenAI's form."""

    error: OpenAIError

    @staticmethod
    def of(status: int, code: str, sentence: str) -> "OpenAIErrorAnswer":
        """Build the body of an error response.

        Args:
            status: HTTP status.
            code: Code for programs.
            sentence: Message that says what to do.
        """
        kind: Literal["invalid_request_error", "rate_limit_error", "server_error"] = "invalid_request_error"
        if status == 429:
            kind = "rate_limit_error"
        elif status >= 500:
            kind = "server_error"
        return OpenAIErrorAnswer(error=OpenAIError(message=sentence, type=kind, code=code))
