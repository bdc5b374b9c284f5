"""OpenAI's models, completions and chat completions: the answers and errors.

Source: OpenAI's API reference; checked with the client `openai` 3.54.
"""

from typing import Literal

from pydantic import BaseModel, Field

__all__ = [
    "ChatAnswer",
    "ChatChoice",
    "ChatChunk",
    "ChatChunkChoice",
    "ChatDelta",
    "ChatLogprobs",
    "ChatResponse",
    "ChatTokenLogprob",
    "ChatTopLogprob",
    "Choice",
    "CompletionChunk",
    "CompletionChunkChoice",
    "CompletionResponse",
    "Logprobs",
    "ModelCard",
    "ModelList",
    "OpenAIErrorAnswer",
    "TextUsage",
]


class TextUsage(BaseModel):
    """Numbers of tokens read and generated."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Logprobs(BaseModel):
    """Log-probabilities of a completion, one entry per token.

    A token that is part of a character is `bytes:` and its bytes, as in `bytes:\\xe2\\x82`. Where two tokens at a
    position have the same text, the less likely one is `token_id:` and its id.
    """

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] = Field(description="the generated token and the likeliest ones")
    text_offset: list[int] = Field(description="characters of the text before each token")


Finish = Literal["stop", "length"]


class Choice(BaseModel):
    """Continuation of one prompt."""

    index: int
    text: str
    logprobs: Logprobs | None
    finish_reason: Finish


class CompletionResponse(BaseModel):
    """One choice per prompt, in the order of the prompts."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[Choice]
    usage: TextUsage


class CompletionChunkChoice(BaseModel):
    """A part of the continuation of one prompt."""

    index: int
    text: str
    logprobs: Logprobs | None
    finish_reason: Finish | None


class CompletionChunk(BaseModel):
    """An event of a streamed completion."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChunkChoice]
    usage: TextUsage | None = None


class ChatTopLogprob(BaseModel):
    """An alternative token at a position."""

    token: str
    logprob: float
    bytes: list[int] = Field(description="of the token; they can be a part of a character in UTF-8")


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
    finish_reason: Finish


class ChatResponse(BaseModel):
    """Response to a chat; it has one choice."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: TextUsage


class ChatDelta(BaseModel):
    """What an event adds to the assistant's message."""

    role: Literal["assistant"] | None = Field(default=None, exclude_if=lambda value: value is None)
    content: str | None = Field(default=None, exclude_if=lambda value: value is None)


class ChatChunkChoice(BaseModel):
    """A part of the answer to a chat."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: Finish | None


class ChatChunk(BaseModel):
    """An event of a streamed answer to a chat."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: TextUsage | None = None


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
