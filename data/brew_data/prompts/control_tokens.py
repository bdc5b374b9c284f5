"""The control tokens of a chat, and which tokens of each model family take these roles.

A chat has no closing markers (`brew_data.prompts.chat`): each control token starts a part of it. All of them are single
tokens, so that a question costs two tokens beside its text.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType

from brew_platform.errors import UserError

__all__ = ["CONTROL_TOKENS", "OWN_TOKENS", "TOKEN_FAMILIES", "ControlTokens", "choose_control_tokens"]


@dataclass(frozen=True, kw_only=True)
class ControlTokens:
    """The tokens, as text, that have a role in a chat.

    Args:
        pad: Fills rows of unequal length; no prompt contains it.
        end: Ends a document.
        system: Starts the instruction.
        member: Starts the profile.
        user: Starts a question.
        assistant: Starts an answer.
        bos: Starts each document and prompt, for models that were trained with such a token; else None.

    Raises:
        UserError: Two roles have the same token, or a token is empty.
    """

    pad: str
    end: str
    system: str
    member: str
    user: str
    assistant: str
    bos: str | None = None

    def __post_init__(self) -> None:
        tokens = [token for token in asdict(self).values() if token is not None]
        if "" in tokens or len(set(tokens)) < len(tokens):
            raise UserError(
                f"the control tokens {tokens} are not distinct words, so the roles of a chat cannot be told apart. Use "
                f"a different token for each role."
            )

    @staticmethod
    def from_dict(data: object) -> "ControlTokens":
        """Read what `dataclasses.asdict` returned.

        Raises:
            UserError: A role is missing, unknown, or not a string.
        """
        names = {field.name for field in fields(ControlTokens)}
        if (
            not isinstance(data, Mapping)
            or set(data) != names
            or not all(isinstance(token, str) or (role == "bos" and token is None) for role, token in data.items())
        ):
            raise UserError(f"the control tokens {data!r} are not a map of {', '.join(sorted(names))} to strings.")
        return ControlTokens(**data)


# The order fixes their ids (0 ... 5) in every tokenizer that brew360 trains.
CONTROL_TOKENS = ["<|pad|>", "<|end|>", "<|system|>", "<|member|>", "<|user|>", "<|assistant|>"]
OWN_TOKENS = ControlTokens(
    pad="<|pad|>", end="<|end|>", system="<|system|>", member="<|member|>", user="<|user|>", assistant="<|assistant|>"
)

# Reserved tokens are preferred, because the embeddings keep their size. Of those, the family's own turn markers open
# question and answer: an instruction-tuned model knows them as places where the speaker changes. The remaining roles
# have tokens that text models never see. `bos` is set where the family was trained with it: without it, such models
# write nonsense. Tokens of the form <|role|> are added to the vocabulary if the tokenizer lacks them.
TOKEN_FAMILIES: Mapping[str, ControlTokens] = MappingProxyType(
    {
        "brew360": OWN_TOKENS,
        "Gemma 3": ControlTokens(
            bos="<bos>",
            pad="<pad>",
            end="<eos>",
            system="<unused0>",
            member="<unused1>",
            user="<start_of_turn>",
            assistant="<end_of_turn>",
        ),
        "Llama 3": ControlTokens(
            bos="<|begin_of_text|>",
            pad="<|reserved_special_token_2|>",
            end="<|end_of_text|>",
            system="<|reserved_special_token_0|>",
            member="<|reserved_special_token_1|>",
            user="<|start_header_id|>",
            assistant="<|end_header_id|>",
        ),
        "Qwen 2.5 and 3": ControlTokens(  # vision tokens, which text models never see; a turn has its own token
            pad="<|vision_pad|>",
            end="<|endoftext|>",
            system="<|object_ref_start|>",
            member="<|object_ref_end|>",
            user="<|im_start|>",
            assistant="<|im_end|>",
        ),
        "Qwen 2": ControlTokens(
            pad="<|pad|>",
            end="<|endoftext|>",
            system="<|system|>",
            member="<|member|>",
            user="<|im_start|>",
            assistant="<|im_end|>",
        ),
        "Mistral v3": ControlTokens(
            bos="<s>",
            pad="[control_8]",
            end="</s>",
            system="[control_9]",
            member="[control_10]",
            user="[INST]",
            assistant="[/INST]",
        ),
        "Llama 2, Mistral and Mixtral": ControlTokens(
            bos="<s>",
            pad="<|pad|>",
            end="</s>",
            system="<|system|>",
            member="<|member|>",
            user="<|user|>",
            assistant="<|assistant|>",
        ),
    }
)


def choose_control_tokens(vocabulary: Mapping[str, int]) -> tuple[ControlTokens, list[str]]:
    """Choose the control tokens of a model's tokenizer: the first family whose tokens it has.

    Tokens of the form `<|role|>` may be missing in families other than brew360 itself.

    Args:
        vocabulary: Ids by token, added tokens included.

    Returns:
        The control tokens, and those among them that must be added to the tokenizer.

    Raises:
        UserError: The tokenizer belongs to none of the families.
    """
    for name, family in TOKEN_FAMILIES.items():
        missing = [token for token in asdict(family).values() if token is not None and token not in vocabulary]
        if not missing or (name != "brew360" and set(missing) <= set(CONTROL_TOKENS)):
            return family, missing
    raise UserError(
        f"the tokenizer has the tokens of none of the families {', '.join(list(TOKEN_FAMILIES)[1:])}, so the roles of "
        f"a chat have no tokens. Use a model of one of these families, or train a tokenizer on the data."
    )
