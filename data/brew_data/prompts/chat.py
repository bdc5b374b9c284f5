"""Lays out a chat with control tokens and renders chat messages in this layout.

    <bos> <|system|> instruction <|member|> profile              head; <bos> only for models that were trained with it
    <|user|> text <|assistant|> text ...                         turns
    <|assistant|>                                                the model's next token answers

An answer of a ranking task is a label. If one label of the task begins another, as "like" begins "like strongly", each
answer of the task is followed by `<|end|>`, in prompts, in training and in scores. Answers in chat messages have no
`<|end|>`.

The prompt compiler, preference pairs and the chat endpoint share this layout. Text is encoded without control tokens,
so it cannot forge a turn (`brew_data.prompts.tokenizer`).
"""

from collections.abc import Sequence
from itertools import chain

from brew_data.prompts.tokenizer import Tokenizer
from brew_platform.errors import UserError

__all__ = ["chat_ids", "head_ids", "question_ids"]

_SYSTEM = ("system", "developer")


def head_ids(tokenizer: Tokenizer, instruction: Sequence[int], profile: Sequence[int] = ()) -> tuple[int, ...]:
    """Return the head of a chat: an instruction and a profile.

    Args:
        tokenizer: Supplies the control tokens.
        instruction: Token ids.
        profile: Token ids.

    Returns:
        Token ids.
    """
    start = () if tokenizer.bos is None else (tokenizer.bos,)
    return (*start, tokenizer.system, *instruction, tokenizer.member, *profile)


def question_ids(tokenizer: Tokenizer, text: Sequence[int]) -> tuple[int, ...]:
    """Return a question turn, up to and including the control token that the answer follows.

    Args:
        tokenizer: Supplies the control tokens.
        text: Token ids of the question.

    Returns:
        Token ids.
    """
    return (tokenizer.user, *text, tokenizer.assistant)


def chat_ids(tokenizer: Tokenizer, messages: Sequence[tuple[str, str]]) -> tuple[int, ...]:
    """Render chat messages, up to and including the control token that the answer follows.

    Args:
        tokenizer: The tokenizer of the model that answers.
        messages: Pairs of role and text, at least one. The role is system or developer (at the start only), user, or
            assistant.

    Returns:
        Token ids.

    Raises:
        UserError: A system message follows a message of another role, or the last message does not have role user.
    """
    roles = [role for role, _ in messages]
    first = next((i for i, role in enumerate(roles) if role not in _SYSTEM), len(roles))
    late = [i for i, role in enumerate(roles) if role in _SYSTEM and i > first]
    if late:
        raise UserError(
            f"messages.{late[0]} has role {roles[late[0]]}, which must precede other roles. Move it to the start."
        )
    if roles[-1] != "user":
        raise UserError(f"the last message has role {roles[-1]}. End with a message of role user.")
    instruction = "\n".join(text for _, text in messages[:first])
    role_tokens = {"user": tokenizer.user, "assistant": tokenizer.assistant}
    turns = ((role_tokens[role], *tokenizer.encode(text, cached=False)) for role, text in messages[first:])
    head = head_ids(tokenizer, tokenizer.encode(instruction, cached=False))
    return (*head, *chain.from_iterable(turns), tokenizer.assistant)
