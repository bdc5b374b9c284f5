"""Reads the tokenizer of a model folder, and turns off all that would change or cut outside text."""

import hashlib
import json
from pathlib import Path
from typing import Any

from brew_data.prompts.control_tokens import ControlTokens, choose_control_tokens
from brew_platform.errors import UserError

__all__ = ["file_digest", "read_model_tokenizer", "sanitize"]

FILE = "tokenizer.json"
LARGEST_ID = 2**24  # a model has a row of embeddings for each id
OTHER_FILES = ("tokenizer.model", "vocab.json", "tekken.json")  # of tokenizers that transformers can convert


def file_digest(folder: Path) -> str:
    """Return the SHA-256 (64 hex digits) of the file that defines the tokenizer of a model folder.

    Raises:
        UserError: There is no such folder, or it has no tokenizer.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder} is not a folder. Download the model and pass its folder, with config.json, weights and {FILE}."
        )
    for name in (FILE, *OTHER_FILES):
        if (folder / name).is_file():
            return hashlib.sha256((folder / name).read_bytes()).hexdigest()
    raise UserError(
        f"{folder} has no {FILE}, so its token ids have no meaning. Copy the tokenizer of the model into the folder."
    )


def read_model_tokenizer(folder: Path) -> tuple[str, ControlTokens]:
    """Read the tokenizer of a model of a known family, and add the control tokens that it lacks.

    Args:
        folder: A Hugging Face model folder. A tokenizer without `tokenizer.json` is converted by transformers.

    Returns:
        The content of a sanitized `tokenizer.json`, and the control tokens.

    Raises:
        UserError: There is no such folder, it has no tokenizer, the tokenizer cannot be read or converted, or its
            family is unknown.
    """
    file_digest(folder)  # refuses a folder without tokenizer
    text = (folder / FILE).read_text() if (folder / FILE).is_file() else _converted(folder)
    data = _parse(text)
    vocabulary = _vocabulary(data)
    tokens, missing = choose_control_tokens(vocabulary)
    first = max(vocabulary.values(), default=-1) + 1
    data["added_tokens"] += [_added_token(token, first + i) for i, token in enumerate(missing)]
    return sanitize(json.dumps(data, ensure_ascii=False, separators=(",", ":"))), tokens


def sanitize(text: str) -> str:
    """Turn off what cuts, pads, extends or randomizes an encoding or loses text, and mark control tokens as special.

    A token that is added to the model's vocabulary is text only if it consists of whitespace, as Gemma's runs of line
    breaks and spaces. All others (`<|im_start|>`, `[multimodal]`, `<think>`) are control tokens, whether the file marks
    them as special or not. So is the token of unknown characters; they are spelled in bytes.

    Args:
        text: The content of a `tokenizer.json`.

    Returns:
        The same text if there is nothing to change.

    Raises:
        UserError: The text is not a tokenizer, or an id belongs to several tokens or a token to several ids.
    """
    data = _parse(text)
    vocabulary = _vocabulary(data)
    changes: list[bool] = []

    def put(where: dict[str, Any], key: str, value: object) -> None:
        if where.get(key) != value:
            where[key] = value
            changes.append(True)

    for name in ("truncation", "padding", "post_processor"):
        put(data, name, None)
    if data["model"].get("dropout") is not None:
        put(data["model"], "dropout", None)
    if "<0x00>" in vocabulary:
        put(data["model"], "byte_fallback", True)
    unknown = _unknown_token(data["model"])
    if unknown in vocabulary and unknown not in {token["content"] for token in data["added_tokens"]}:
        data["added_tokens"].append(_added_token(unknown, vocabulary[unknown]))
        changes.append(True)
    for token in data["added_tokens"]:
        whitespace = not token["content"].replace("\u2581", " ").strip()
        if not whitespace or token.get("lstrip") or token.get("rstrip"):
            put(token, "special", True)
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")) if changes else text


def _parse(text: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
        data["model"].get, data.setdefault("added_tokens", [])[:]
        if all(isinstance(token["content"], str) and isinstance(token["id"], int) for token in data["added_tokens"]):
            return dict(data)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    raise UserError(f"the {FILE} has no model or malformed added_tokens. Replace it with that of the model.")


def _vocabulary(data: dict[str, Any]) -> dict[str, int]:
    """Return the ids by token, those of added tokens included.

    Raises:
        UserError: The vocabulary is malformed, or an id belongs to several tokens or a token to several ids.
    """
    try:
        vocabulary = data["model"]["vocab"]
        if isinstance(vocabulary, list):  # Unigram: pairs of token and score, in the order of the ids
            vocabulary = {token: id_ for id_, (token, _) in enumerate(vocabulary)}
        tokens: dict[str, int] = dict(vocabulary)
        ids = [*tokens.values(), *(token["id"] for token in data["added_tokens"])]
        if not all(type(id_) is int and 0 <= id_ <= LARGEST_ID for id_ in ids):
            raise ValueError("an id is not a whole number, or too large")
        owners = {id_: token for token, id_ in tokens.items()}
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(f"the {FILE} has a malformed vocabulary. Replace it with that of the model.") from error
    shared = [f"{owners[id_]!r} and {token!r}" for token, id_ in tokens.items() if owners[id_] != token]
    for token in data["added_tokens"]:
        content, id_ = token["content"], token["id"]
        if tokens.setdefault(content, id_) != id_ or owners.setdefault(id_, content) != content:
            shared.append(f"{owners.get(id_, content)!r} and {content!r}")
    if shared:
        raise UserError(
            f"the {FILE} gives one id to several tokens, or several ids to one token ({shared[0]}), so its ids are "
            f"ambiguous. Replace it with that of the model."
        )
    return tokens


def _unknown_token(model: dict[str, Any]) -> str | None:
    """The token that stands for characters that the vocabulary lacks."""
    if model.get("unk_id") is not None:
        try:
            return str(model["vocab"][model["unk_id"]][0])
        except (IndexError, KeyError, TypeError):
            return None
    unknown = model.get("unk_token")
    return unknown if isinstance(unknown, str) else None


def _added_token(content: str, id_: int) -> dict[str, object]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": id_, "content": content, **flags, "special": True}


def _converted(folder: Path) -> str:
    from transformers import AutoTokenizer

    try:
        return str(AutoTokenizer.from_pretrained(folder, local_files_only=True).backend_tokenizer.to_str())
    except Exception as error:  # each converter raises errors of its own
        raise UserError(
            f"the tokenizer in {folder} has no {FILE} and cannot be converted ({_first_line(error)}). Load it with "
            f"transformers where that works, save it with save_pretrained, and copy {FILE} into the folder."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]
