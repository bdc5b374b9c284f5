"""Small tokenizers in the shape of each family: model, normalizer, decoder, and the names and flags of added tokens."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

__all__ = ["FAMILIES", "make_base_tokenizer", "write_base_tokenizer"]

CORPUS = [
    "Predict whether the member applies to the job. apply skip like share",
    "engineer at acme in berlin, nurse at charite in hamburg, cook in paris",
    "The movie was rated 5 stars, <s> not 1; user assistant system end pad",
] * 20
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
WORDS = r"[^\s\p{L}\p{N}]|\p{N}{1,3}| ?\p{L}+|\s+"


def _sentencepiece(specials: Sequence[str], texts: Sequence[str], *, prefix: bool) -> Tokenizer:
    """A BPE with byte fallback, as converted from SentencePiece. `texts` are added tokens that are not special."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    replace = normalizers.Replace(" ", "\u2581")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), replace]) if prefix else replace
    tokenizer.pre_tokenizer = None if prefix else pre_tokenizers.Split(" ", "merged_with_previous")
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    everything = [*specials, *texts, *BYTES]
    trainer = trainers.BpeTrainer(
        vocab_size=len(everything) + 120, special_tokens=everything, show_progress=False, max_token_length=6
    )
    # As SentencePiece, which does not merge over the space between words.
    words = [word for text in CORPUS for word in text.replace(" ", " \u2581").split(" ")]
    bare = Tokenizer.from_str(tokenizer.to_str())
    bare.normalizer = None
    bare.train_from_iterator(words, trainer)
    data = json.loads(bare.to_str())
    data |= {key: json.loads(tokenizer.to_str())[key] for key in ("normalizer", "pre_tokenizer", "decoder")}
    data["added_tokens"] = [
        token | {"special": token["content"] in specials}
        for token in data["added_tokens"]
        if token["content"] not in BYTES
    ]
    return Tokenizer.from_str(json.dumps(data))


def _byte_level(specials: Sequence[str], texts: Sequence[str], *, normalizer: Any = None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=normalizer is None))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=380, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in texts])
    return tokenizer


def _with_bos(tokenizer: Tokenizer, bos: str) -> Tokenizer:
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
    return tokenizer


def _gemma() -> Tokenizer:
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    unused = [f"<unused{i}>" for i in range(9)]
    texts = ["[multimodal]", *("\n" * n for n in range(1, 4)), *("\u2581" * n for n in range(2, 5)), "<table>"]
    return _with_bos(
        _sentencepiece([*specials, *unused, "<start_of_turn>", "<end_of_turn>"], texts, prefix=False), "<bos>"
    )


def _llama3() -> Tokenizer:
    reserved = [f"<|reserved_special_token_{i}|>" for i in range(4)]
    headers = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    return _with_bos(
        _byte_level(["<|begin_of_text|>", "<|end_of_text|>", *reserved, *headers], []), "<|begin_of_text|>"
    )


def _qwen3() -> Tokenizer:
    vision = [
        f"<|{name}|>" for name in ("object_ref_start", "object_ref_end", "vision_start", "vision_end", "vision_pad")
    ]
    return _byte_level(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *vision],
        ["<tool_call>", "</tool_call>", "<|fim_prefix|>", "<think>", "</think>"],
        normalizer=normalizers.NFC(),
    )


FAMILIES: Mapping[str, Any] = {
    "gemma3": _gemma,
    "llama3": _llama3,
    "qwen3": _qwen3,
    "mixtral": lambda: _with_bos(_sentencepiece(["<unk>", "<s>", "</s>"], [], prefix=True), "<s>"),
}
"""What builds the tokenizer of each family."""


def make_base_tokenizer(family: str) -> dict[str, Any]:
    """Return the content of the family's tokenizer.json."""
    return dict(json.loads(FAMILIES[family]().to_str()))


def write_base_tokenizer(family: str, folder: Path) -> dict[str, Any]:
    """Write the family's tokenizer.json into a folder, and return its content."""
    content = make_base_tokenizer(family)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return content
