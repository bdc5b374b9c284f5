"""The layout of a chat with control tokens, and the rendering of chat messages in it.

    <|system|> instruction <|member|> profile                    head
    <|user|> text <|assistant|> text ...                         turns
    <|assistant|>                                                the model's next token answers

The prompt compiler, preference pairs and chat messages from outside share this layout. Text is encoded without control
tokens, so that it cannot forge a turn (`brew_data.prompts.tokenizer`).
"""

from collections.abc import Sequence
from itertools import chain

from brew_data.prompts.tokenizer import Tokenizer
from brew_platform.errors import UserError

__all__ = ["chat_ids", "head_ids", "question_ids"]

_SYSTEM = ("system", "developer")


def head_ids(tokenizer: Tokenizer, instruction: Sequence[int], profile: Sequence[int] = ()) -> tuple[int, ...]:
    """Lay out encoded instruction and profile as the head of a chat."""
    return (tokenizer.system, *instruction, tokenizer.member, *profile)


def question_ids(tokenizer: Tokenizer, text: Sequence[int]) -> tuple[int, ...]:
    """Lay out encoded text as a question, up to the token that the answer follows."""
    return (tokenizer.user, *text, tokenizer.assistant)


def chat_ids(tokenizer: Tokenizer, messages: Sequence[tuple[str, str]]) -> tuple[int, ...]:
    """Render chat messages, up to the token that the answer follows.

    Args:
        tokenizer: Of the model that answers.
        messages: (role, text). The role is system or developer (first messages only), user, or assistant.

    Returns:
        Token ids.

    Raises:
        UserError: A system message follows a message of another role, or the last message is not of role user.
    """
    roles = [role for role, _ in messages]
    first = next((i for i, role in enumerate(roles) if role not in _SYSTEM), len(roles))
    late = [i for i, role in enumerate(roles) if role in _SYSTEM and i > first]
    if late:
        raise UserError(
            f"messages.{late[0]} is of role {roles[late[0]]}, which must precede other roles; move it to the start."
        )
    if roles[-1] != "user":
        raise UserError(f"the last message is of role {roles[-1]}; end with a message of role user.")
    instruction = "\n".join(text for _, text in messages[:first])
    role_tokens = {"user": tokenizer.user, "assistant": tokenizer.assistant}
    turns = ((role_tokens[role], *tokenizer.encode(text)) for role, text in messages[first:])
    head = head_ids(tokenizer, tokenizer.encode(instruction))
    return (*head, *chain.from_iterable(turns), tokenizer.assistant)
