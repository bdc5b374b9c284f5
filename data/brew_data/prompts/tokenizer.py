"""Trains, loads and applies the tokenizer: text to token ids, and back, with control tokens that mark a chat's turns.

`Tokenizer.encode` never returns a control token, so external text cannot forge a turn.
"""

import hashlib
import json
import sys
import unicodedata
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

from tokenizers import Encoding, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as FastTokenizer

from brew_data.prompts.byte_limited_cache import ByteLimitedCache
from brew_data.prompts.control_tokens import CONTROL_TOKENS, OWN_TOKENS, ControlTokens
from brew_data.prompts.tokenizer_file import FILE, file_digest, read_model_tokenizer, sanitize
from brew_platform.errors import ConfigError, UserError
from brew_platform.files import replace_atomically
from brew_platform.settings import OneOf, Range, Settings

__all__ = ["CONTROL_TOKENS", "Tokenizer", "TokenizerConfig", "train_tokenizer"]

LONGEST_TOKEN = 64  # bytes
MERGES = ("lines", "words")
CACHE_BYTES = 64 * 2**20  # of the texts and ids that a tokenizer keeps
ENTRY_BYTES = 64 * 2**10  # of one text and its ids; a longer text is that of no entity that fits a prompt
_MOST_COMPOSED = "\u1f82"  # no character has more parts: four
_RELEASES_LOCK = 2_000  # characters from which a text is encoded without the interpreter's lock; takes about 1 ms
PROBE = "Aa0 ~!@#$%^&*()_+-=[]{};':\",./<>?\\|`\n(b)\n\nc\td \u00e9\u00df \u6771\u4eac \U0001f600 \u0639\u0631"


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig(Settings):
    """Which tokenizer the data use.

    Raises:
        ConfigError: A value is out of its range.
    """

    from_: str | None = None  # folder of a Hugging Face model whose tokenizer is used; null trains one on the data
    # Largest number of ids of a trained tokenizer; not used with `from`.
    vocabulary_size: Annotated[int, Range(ge=256 + len(CONTROL_TOKENS), le=1_000_000)] = 2_000
    # Of a trained tokenizer: lines merge across words, which halves the tokens of short phrases; words do not.
    merges: Annotated[str, OneOf(MERGES)] = "lines"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.from_ == "":
            raise ConfigError("from is empty; give the folder of a model, or null to train a tokenizer.")


class Tokenizer:
    """Converts text to token ids, and back.

    Text that spells a control token is encoded as ordinary bytes: external text cannot forge a turn. This holds for
    any file: control tokens that are not marked special, normalizers that rewrite text into a control token, and
    vocabularies that contain one.

    Args:
        json_text: The content of a `tokenizer.json`.
        control_tokens: The tokens that have a role in a chat.
        base_digest: SHA-256 of the tokenizer file of the base model that the tokenizer is from; None for others.

    Raises:
        UserError: The file is not a tokenizer, it lacks a control token, or it cannot encode every text.
    """

    def __init__(
        self, json_text: str, control_tokens: ControlTokens = OWN_TOKENS, *, base_digest: str | None = None
    ) -> None:
        self.control_tokens, self.base_digest = control_tokens, base_digest
        self._json = sanitize(json_text)
        try:
            self._fast = FastTokenizer.from_str(self._json)
        except Exception as error:  # the tokenizers library raises bare Exception
            raise UserError(f"the {FILE} cannot be read ({error}). Replace it with that of the model.") from error
        self._fast.encode_special_tokens = True  # text that spells a special token is ordinary text
        roles = {role: self._id(token) for role, token in asdict(control_tokens).items() if token is not None}
        if len(set(roles.values())) < len(roles):
            raise UserError(
                f"two of the control tokens {' '.join(self._tokens())} have the same id. Correct the {FILE}."
            )
        self.pad, self.end, self.system = roles["pad"], roles["end"], roles["system"]
        self.member, self.user, self.assistant = roles["member"], roles["user"], roles["assistant"]
        self.bos = roles.get("bos")
        added = self._fast.get_added_tokens_decoder()
        self._control = frozenset(roles.values()) | {id_ for id_, token in added.items() if token.special}
        vocabulary = self._fast.get_vocab()
        ids = vocabulary.values()
        self._longest_token = max(map(len, vocabulary)) * self._most_composed()
        self._n_tokens = max(ids) + 1
        self._vocabulary_size = max(*roles.values(), *(id_ for id_ in ids if id_ not in self._control)) + 1
        self._bytes = self._byte_ids()
        self._byte_of = {self._fast.id_to_token(id_): byte for byte, id_ in enumerate(self._bytes)}
        self._cache = ByteLimitedCache[str, tuple[int, ...]](CACHE_BYTES, entry_limit=ENTRY_BYTES)
        self._splits_lines = _splits_lines(self._fast)
        if (decoded := self.decode(self.encode(PROBE))) != PROBE:
            raise UserError(
                f"the tokenizer changes text: {PROBE!r} becomes {decoded!r}. Use the tokenizer.json that the model was "
                f"published with."
            )

    def _id(self, token: str) -> int:
        id_ = self._fast.token_to_id(token)
        if id_ is None:
            raise UserError(f"the tokenizer has no {token} token; add {' '.join(self._tokens())} to it.")
        return int(id_)

    def _tokens(self) -> list[str]:
        return [token for token in asdict(self.control_tokens).values() if token is not None]

    def _byte_ids(self) -> list[int]:
        """The id of each byte: tokens <0x00> to <0xFF>, or the alphabet of a byte-level tokenizer."""
        for names in ([f"<0x{byte:02X}>" for byte in range(256)], _byte_level_alphabet()):
            ids = [id_ for name in names if (id_ := self._fast.token_to_id(name)) is not None]
            if len(set(ids)) == 256 and self._control.isdisjoint(ids):
                return ids
        raise UserError(
            "the tokenizer has no token for each byte, so it cannot encode every text. Use a byte-level tokenizer or "
            "one with byte fallback."
        )

    def _most_composed(self) -> int:
        """Return how many characters the normalizer can join to one."""
        normalizer = self._fast.normalizer
        parts = unicodedata.normalize("NFD", _MOST_COMPOSED)
        return 1 if normalizer is None or len(normalizer.normalize_str(parts)) >= len(parts) else len(parts)

    @property
    def longest_token(self) -> int:
        """The largest number of characters of a text that a token stands for."""
        return self._longest_token

    def encode(self, text: str, *, cached: bool = False) -> tuple[int, ...]:
        """Return the ids of a text. None of them is a control token, and no part of the text is cut.

        Args:
            text: Any text.
            cached: Keep the ids, within `CACHE_BYTES`: for the turns of entities and for instructions, which repeat.
                Other texts of requests must not stay in memory. If the tokenizer splits lines, each line is kept: a
                description is the same line in all forms of its entity.

        Raises:
            UserError: The text has half of a surrogate pair, so it is not Unicode.
        """
        if not cached:
            return self._encode(text)
        if not self._splits_lines:
            return self._kept(text)
        *lines, last = text.split("\n")
        ids = [id_ for line in lines for id_ in self._kept(f"{line}\n")]
        return (*ids, *self._kept(last)) if last else tuple(ids)

    def _kept(self, text: str) -> tuple[int, ...]:
        ids = self._cache.get(text)
        if ids is None:
            ids = self._encode(text)  # an id takes up to 32 bytes and 8 of the tuple
            self._cache.put(text, ids, size=sys.getsizeof(text) + sys.getsizeof(ids) + 32 * len(ids))
        return ids

    def _encode(self, text: str) -> tuple[int, ...]:
        try:
            if len(text) < _RELEASES_LOCK:
                encoding = self._fast.encode(text, add_special_tokens=False)
            else:  # `encode` holds the interpreter's lock, `encode_batch` does not
                (encoding,) = self._fast.encode_batch([text], add_special_tokens=False)
        except TypeError as error:  # the library takes only texts that UTF-8 can express
            raise UserError("a text has half of a surrogate pair, so it is not Unicode. Write it as UTF-8.") from error
        ids = encoding.ids  # a new list at each access
        if self._control.isdisjoint(ids):
            return tuple(ids)
        return self._without_control(text, encoding)

    def _without_control(self, text: str, encoding: Encoding) -> tuple[int, ...]:
        """Replace each control token, and the tokens that share characters with it, by the bytes of its characters."""
        ids: list[int] = []
        spelled = -1  # end of the characters that have been spelled in bytes
        tokens = list(zip(encoding.ids, encoding.offsets, strict=True))
        index = 0
        while index < len(tokens):
            last, (start, end) = index, tokens[index][1]
            found = tokens[index][0] in self._control
            while last + 1 < len(tokens) and tokens[last + 1][1][0] < end:  # tokens of the same characters
                last += 1
                found |= tokens[last][0] in self._control
                end = max(end, tokens[last][1][1])
            if found:
                start = max(start, spelled)
                ids += (self._bytes[byte] for byte in text[start:end].encode())
                spelled = end
            else:
                ids += (id_ for id_, _ in tokens[index : last + 1])
            index = last + 1
        return tuple(ids)

    def __reduce__(self) -> tuple:
        return _load, (self._json, self.control_tokens, self.base_digest)

    @property
    def vocabulary_size(self) -> int:
        """One more than the largest id that prompts contain: a model needs so many rows of embeddings.

        Control tokens without a role are not counted; Gemma's tokenizer has one that its text models lack.
        """
        return self._vocabulary_size

    @property
    def n_tokens(self) -> int:
        """One more than the largest id, control tokens without a role included."""
        return self._n_tokens

    @property
    def role_ids(self) -> tuple[int, ...]:
        """The ids of the tokens that prompts and training documents contain beside text."""
        roles = (self.end, self.system, self.member, self.user, self.assistant)
        return roles if self.bos is None else (self.bos, *roles)

    @property
    def control_ids(self) -> frozenset[int]:
        """The ids of all control tokens; no text yields them."""
        return self._control

    @cached_property
    def digest(self) -> str:
        """SHA-256 (64 hex digits) of `tokenizer.json`."""
        return hashlib.sha256(self._json.encode()).hexdigest()

    def decode(self, ids: Iterable[int]) -> str:
        """Convert ids to text that includes the control tokens; for logs and tests."""
        return str(self._fast.decode(list(ids), skip_special_tokens=False))

    def token_bytes(self, id_: int) -> bytes:
        """Return the bytes of a token, which can be a part of a character. An id without a token has none.

        Decoded as UTF-8, the bytes of several tokens are the text that `decode` returns, but some tokenizers remove a
        space from its start.
        """
        token = self._fast.id_to_token(id_)
        if token is None:
            return b""
        if token in self._byte_of:
            return bytes([self._byte_of[token]])
        if "<0x00>" in self._byte_of:
            return str(token).replace("\u2581", " ").encode()
        known = all(character in self._byte_of for character in token)  # not in the text of an added token
        return bytes(map(self._byte_of.__getitem__, token)) if known else str(token).encode()

    def to_json(self) -> str:
        """Return the content of `tokenizer.json`."""
        return self._json

    @staticmethod
    def from_json(text: str, control_tokens: ControlTokens = OWN_TOKENS) -> "Tokenizer":
        """Read a tokenizer that `to_json` wrote."""
        return Tokenizer(text, control_tokens)

    @staticmethod
    def from_model(folder: str | Path) -> "Tokenizer":
        """Load the tokenizer of a base model of a known family, with control tokens for the roles of a chat.

        The family's reserved tokens take the roles; where it has none, tokens are added (`control_tokens`). An export
        of brew360 has its tokens already.

        Raises:
            UserError: The folder has no tokenizer, it cannot be read, or it belongs to no known family.
        """
        from brew_data.prompts.bundle import PROMPT_FILE, PromptBundle

        if (Path(folder) / PROMPT_FILE).is_file():
            return PromptBundle.load(Path(folder)).tokenizer
        text, tokens = read_model_tokenizer(Path(folder))
        return Tokenizer(text, tokens, base_digest=file_digest(Path(folder)))

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, which transformers and vLLM load.

        Args:
            folder: Created if it does not exist.
        """
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "pad_token": self.control_tokens.pad,
            "eos_token": self.control_tokens.end,
            "bos_token": self.control_tokens.bos,
            "split_special_tokens": True,
            "clean_up_tokenization_spaces": False,
            "model_max_length": int(1e30),  # what transformers writes for "no limit"
        }
        folder.mkdir(parents=True, exist_ok=True)
        replace_atomically(folder / FILE, self._json)
        replace_atomically(folder / "tokenizer_config.json", json.dumps(settings, indent=2))

    @staticmethod
    def load(
        folder: Path, control_tokens: ControlTokens = OWN_TOKENS, *, base_digest: str | None = None
    ) -> "Tokenizer":
        """Load the tokenizer in `folder/tokenizer.json`.

        Raises:
            UserError: The file is missing, unreadable, or lacks a control token.
        """
        path = folder / FILE
        if not path.exists():
            raise UserError(f"{path} does not exist. Pass a model folder that contains a tokenizer.")
        try:
            return Tokenizer(path.read_text(encoding="utf-8"), control_tokens, base_digest=base_digest)
        except (OSError, UnicodeDecodeError, UserError) as error:
            raise UserError(
                f"{path} is not a valid tokenizer file ({error}). Replace it with the tokenizer.json of the model."
            ) from error


def _load(json_text: str, control_tokens: ControlTokens, base_digest: str | None) -> Tokenizer:
    return Tokenizer(json_text, control_tokens, base_digest=base_digest)


def _splits_lines(fast: FastTokenizer) -> bool:
    """Whether no token has characters of two lines, so that lines can be encoded one by one."""
    if fast.pre_tokenizer is None or fast.normalizer is not None:
        return False
    steps = json.loads(fast.pre_tokenizer.__getstate__()).get("pretokenizers") or [None]  # the file can have 30 MB
    split = {"type": "Split", "pattern": {"String": "\n"}, "behavior": "MergedWithPrevious", "invert": False}
    return steps[0] == split and not any("\n" in token.content for token in fast.get_added_tokens_decoder().values())


def _byte_level_alphabet() -> list[str]:
    """The character of each byte in a byte-level vocabulary: printable bytes stand for themselves (GPT-2)."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def train_tokenizer(texts: Iterable[str], *, vocabulary_size: int, merges: str = "lines") -> Tokenizer:
    """Train a byte-level BPE, by default with merges that may cross words, but not the end of a line.

    Templates write one phrase per line, so a frequent title or "in Berlin" becomes a single token. Prompts are half as
    long as with merges inside words only. Rare phrases are still split into several tokens.

    Source: SuperBPE, Liu et al. 2025, arXiv:2503.13423, uses merges across words for prose.

    Args:
        texts: The corpus. A text that occurs twice counts twice.
        vocabulary_size: The maximum number of ids, including control tokens and the 256 bytes.
        merges: `lines`, or `words`: a word has the same tokens in every sentence, and a prompt about twice as many.

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
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=merges == "words"),
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
    return Tokenizer(fast.to_str())
