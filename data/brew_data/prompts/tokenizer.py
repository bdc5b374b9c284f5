"""Trains, loads and applies the tokenizer: a byte-level BPE with control tokens that mark the turns of a chat.

`Tokenizer.encode` never returns a control token, so external text cannot forge a turn.
"""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

from brew_platform.errors import UserError

__all__ = ["CONTROL_TOKENS", "Tokenizer", "train_tokenizer"]

# The order fixes their ids (0 ... 5) in every tokenizer that brew360 trains.
CONTROL_TOKENS = ["<|pad|>", "<|end|>", "<|system|>", "<|member|>", "<|user|>", "<|assistant|>"]
LONGEST_TOKEN = 64  # bytes


class Tokenizer:
    """Converts text to token ids, and back.

    Text that spells a control token is encoded as ordinary bytes: external text cannot forge a turn.

    Args:
        fast: A Hugging Face fast tokenizer that has the control tokens.

    Raises:
        UserError: The tokenizer lacks a control token.
    """

    def __init__(self, fast: FastTokenizer) -> None:
        self._fast = fast
        self._fast.encode_special_tokens = True
        self.pad, self.end, self.system, self.member, self.user, self.assistant = map(self._control_id, CONTROL_TOKENS)
        self.encode = lru_cache(maxsize=200_000)(self._encode)  # entities repeat

    def _control_id(self, token: str) -> int:
        id_ = self._fast.token_to_id(token)
        if id_ is None:
            raise UserError(f"the tokenizer has no {token} token; add {' '.join(CONTROL_TOKENS)} to it.")
        return int(id_)

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._fast.encode(text, add_special_tokens=False).ids)

    def __reduce__(self) -> tuple:
        return Tokenizer.from_json, (self.to_json(),)

    @property
    def vocabulary_size(self) -> int:
        """The number of ids, including control tokens."""
        return int(self._fast.get_vocab_size())

    def decode(self, ids: Iterable[int]) -> str:
        """Convert ids to text that includes the control tokens; for logs and tests."""
        return str(self._fast.decode(list(ids), skip_special_tokens=False))

    def to_json(self) -> str:
        """Serialize the tokenizer as text that `from_json` reads."""
        return str(self._fast.to_str())

    @staticmethod
    def from_json(text: str) -> "Tokenizer":
        """Read a tokenizer that `to_json` wrote."""
        return Tokenizer(FastTokenizer.from_str(text))

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, which transformers and vLLM load."""
        from transformers import PreTrainedTokenizerFast

        PreTrainedTokenizerFast(
            tokenizer_object=self._fast,
            pad_token="<|pad|>",  # noqa: S106  (a token, not a password)
            eos_token="<|end|>",  # noqa: S106
            split_special_tokens=True,
        ).save_pretrained(folder)

    @staticmethod
    def load(folder: Path) -> "Tokenizer":
        """Load the tokenizer in `folder/tokenizer.json`.

        Raises:
            UserError: The file is missing, unreadable, or lacks a control token.
        """
        path = folder / "tokenizer.json"
        if not path.exists():
            raise UserError(f"{path} does not exist. Pass a model folder that contains a tokenizer.")
        try:
            return Tokenizer.from_json(path.read_text())
        except Exception as error:  # the tokenizers library raises bare Exception
            raise UserError(
                f"{path} is not a valid tokenizer file ({error}). Replace it with the tokenizer.json of the model."
            ) from error


def train_tokenizer(texts: Iterable[str], *, vocabulary_size: int) -> Tokenizer:
    """Train a byte-level BPE whose merges may cross words, but not the end of a line.

    Templates write one phrase per line, so a frequent title or "in Berlin" becomes a single token. Prompts are half as
    long as with merges inside words only. Rare phrases are still split into several tokens.

    Source: SuperBPE, Liu et al. 2025, arXiv:2503.13423, uses merges across words for prose.

    Args:
        texts: The corpus. A text that occurs twice counts twice.
        vocabulary_size: The maximum number of ids, including control tokens and the 256 bytes.

    Returns:
        The trained tokenizer. Control tokens have the ids 0 to 5, in the order of `CONTROL_TOKENS`.

    Raises:
        UserError: `vocabulary_size` is smaller than the number of bytes and control tokens.
    """
    if vocabulary_size < 256 + len(CONTROL_TOKENS):
        raise UserError(f"vocabulary_size is {vocabulary_size}; set it to at least {256 + len(CONTROL_TOKENS)}.")
    fast = FastTokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n", behavior="merged_with_previous"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    fast.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=CONTROL_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        max_token_length=LONGEST_TOKEN,
        show_progress=False,
    )
    fast.train_from_iterator(texts, trainer)
    return Tokenizer(fast)
