"""A chat from outside as a prompt: its roles become control tokens, and its words never do.

The turns are those that the model was trained on (`brew_data.prompts.compiler`):

    <|system|> system messages <|member|>
    <|user|> words <|assistant|> words ...
    <|assistant|>                            the cue to answer

Owns: that mapping. Does not own: control tokens and the encoding of words (`brew_data.prompts.tokenizer`).
"""

from collections.abc import Sequence
from itertools import chain

from brew_data.prompts.tokenizer import Tokenizer
from brew_platform.errors import UserError

__all__ = ["chat_ids"]

_SYSTEM = ("system", "developer")


def chat_ids(tokenizer: Tokenizer, messages: Sequence[tuple[str, str]]) -> tuple[int, ...]:
    """Token ids of a chat, up to the answer cue.

    Args:
        messages: (role, words); role is system or developer (first ones only), user, or assistant.

    Raises:
        UserError: a system message after others, or the last message is not the user's.
    """
    roles = [role for role, _ in messages]
    first = next((i for i, role in enumerate(roles) if role not in _SYSTEM), len(roles))
    late = [i for i, role in enumerate(roles) if role in _SYSTEM and i > first]
    if late:
        raise UserError(f"messages.{late[0]} is of role {roles[late[0]]}, which comes first; move it to the front.")
    if roles[-1] != "user":
        raise UserError(f"the last message is of role {roles[-1]}; end with one of role user, which is answered.")
    instruction = "\n".join(words for _, words in messages[:first])
    cues = {"user": tokenizer.user, "assistant": tokenizer.assistant}
    turns = ((cues[role], *tokenizer.encode(words)) for role, words in messages[first:])
    head = (tokenizer.system, *tokenizer.encode(instruction), tokenizer.member)
    return (*head, *chain.from_iterable(turns), tokenizer.assistant)
