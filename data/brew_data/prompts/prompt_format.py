"""The token budget of a prompt."""

from dataclasses import dataclass
from typing import Annotated

from brew_platform.errors import ConfigError
from brew_platform.settings import PositiveInt, Range, Settings

__all__ = ["PromptFormat"]


@dataclass(frozen=True, kw_only=True)
class PromptFormat(Settings):
    """The token budget of a prompt. It is part of a model version, because training and serving must use the same one.

    Raises:
        ConfigError: A number is too small for the control tokens, or the context has no tokens left for history beside
            the other two budgets.
    """

    context_length: PositiveInt  # maximum number of tokens of a prompt, including the answer
    # Maximum number of tokens of instruction and profile together.
    head_tokens: Annotated[int, Range(ge=4)] = 192
    # Maximum number of tokens of a turn. As many are reserved for the candidate, whatever its length, so that the
    # prefix does not depend on the candidate.
    question_tokens: Annotated[int, Range(ge=4)] = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.context_length <= self.head_tokens + 2 * self.question_tokens:
            raise ConfigError(self.no_history)

    @property
    def no_history(self) -> str:
        """The message that the budget leaves no tokens for history."""
        return (
            f"context_length {self.context_length} leaves no tokens for history beside head_tokens {self.head_tokens} "
            f"and question_tokens {self.question_tokens}; raise it, or lower those."
        )
