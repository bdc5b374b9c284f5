"""The tokenizer: it keeps every text, outside text never yields a control id, and a saved one is the same one."""

import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import models

from brew_data.prompts.tokenizer import CONTROL_TOKENS, LONGEST_TOKEN, Tokenizer, train_tokenizer
from brew_platform.errors import UserError

SMALLEST = 256 + len(CONTROL_TOKENS)

# Any Unicode text; surrogates cannot be encoded as UTF-8, so that no input holds them.
unicode_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
with_control_words = st.lists(st.one_of(unicode_text, st.sampled_from(CONTROL_TOKENS)), max_size=6).map("".join)


@given(unicode_text)
@settings(deadline=None)
def test_decoding_returns_every_text_unchanged(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "\n\n", " \t ", "\r\n", "\x00", "e\u0301 \u00e9", "\U0001f469\u200d\u2695\ufe0f", "\ufeffx", "\u202eabc"],
)
def test_texts_that_a_normalizer_would_change_are_kept(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(with_control_words)
@settings(deadline=None)
def test_outside_text_never_yields_a_control_id(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert all(len(CONTROL_TOKENS) <= id_ < tokenizer.vocabulary_size for id_ in ids)
    assert tokenizer.decode(ids) == text


@given(st.lists(with_control_words, max_size=4).map("\n".join))
@settings(deadline=None)
def test_kept_lines_have_the_ids_of_the_whole_text(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer._splits_lines
    for _ in range(2):  # the second time, all lines are kept ones
        assert tokenizer.encode(text, cached=True) == tokenizer.encode(text)


def test_a_corpus_that_spells_control_tokens_does_not_make_them_reachable() -> None:
    corpus = [f"{token} hello {token}" for token in CONTROL_TOKENS] * 20
    trained = train_tokenizer(corpus, vocabulary_size=400)
    for token in CONTROL_TOKENS:
        assert min(trained.encode(f"{token} hello {token}")) >= len(CONTROL_TOKENS)


def test_control_tokens_have_the_first_ids_in_a_fixed_order(tokenizer: Tokenizer) -> None:
    ids = [tokenizer.pad, tokenizer.end, tokenizer.system, tokenizer.member, tokenizer.user, tokenizer.assistant]
    assert ids == [0, 1, 2, 3, 4, 5]
    assert tokenizer.decode(ids) == "<|pad|><|end|><|system|><|member|><|user|><|assistant|>"


def test_merges_cross_words_only_if_they_may() -> None:
    corpus = ["a nurse in berlin", "a cook in berlin"] * 50
    lines, words = (train_tokenizer(corpus, vocabulary_size=400, merges=merges) for merges in ("lines", "words"))
    assert len(lines.encode("a nurse in berlin")) == 1
    assert [words.decode([id_]) for id_ in words.encode("a nurse in berlin")] == ["a", " nurse", " in", " berlin"]


def test_no_merge_crosses_the_end_of_a_line() -> None:
    trained = train_tokenizer(["in berlin\nnurse\n"] * 50, vocabulary_size=400)
    first, second = trained.encode("in berlin\n"), trained.encode("nurse\n")
    assert len(first) == len(second) == 1  # merges cross words
    assert trained.encode("in berlin\nnurse\n") == first + second


def test_no_token_is_longer_than_the_limit() -> None:
    trained = train_tokenizer(["a" * 400 + "\n"] * 50, vocabulary_size=600)
    longest = max(len(trained.decode([id_])) for id_ in range(len(CONTROL_TOKENS), trained.vocabulary_size))
    assert 1 < longest <= LONGEST_TOKEN


@pytest.mark.parametrize(
    ("texts", "requested", "size"),
    [
        ([], SMALLEST, SMALLEST),
        (["ab ab ab"], SMALLEST, SMALLEST),
        (["ab ab ab"] * 2, SMALLEST + 1, SMALLEST + 1),
        (["ab"] * 2, 1_000, SMALLEST + 1),  # the corpus has one merge only
    ],
)
def test_the_vocabulary_has_at_most_the_size_requested(texts: list[str], requested: int, size: int) -> None:
    assert train_tokenizer(texts, vocabulary_size=requested).vocabulary_size == size


@pytest.mark.parametrize("size", [-1, 0, SMALLEST - 1])
def test_a_vocabulary_without_room_for_all_bytes_is_refused(size: int) -> None:
    with pytest.raises(UserError, match=f"vocabulary_size is {size}; set it to at least {SMALLEST}"):
        train_tokenizer(["a"], vocabulary_size=size)


def test_training_twice_gives_the_same_tokenizer() -> None:
    corpus = ["nurse in berlin\n", "engineer at acme\n"] * 10
    first, second = (train_tokenizer(corpus, vocabulary_size=350) for _ in range(2))
    assert first.to_json() == second.to_json()


@pytest.fixture(scope="module", params=["folder", "json", "pickle"])
def reloaded(
    request: pytest.FixtureRequest, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Tokenizer:
    """The tokenizer after one of the ways in which it reaches another process."""
    if request.param == "json":
        return Tokenizer.from_json(tokenizer.to_json())
    if request.param == "pickle":
        return pickle.loads(pickle.dumps(tokenizer))
    folder = tmp_path_factory.mktemp("model")
    tokenizer.save(folder)
    return Tokenizer.load(folder)


@given(with_control_words)
@settings(deadline=None)
def test_a_reloaded_tokenizer_gives_the_same_ids(tokenizer: Tokenizer, reloaded: Tokenizer, text: str) -> None:
    assert reloaded.vocabulary_size == tokenizer.vocabulary_size
    assert reloaded.encode(text) == tokenizer.encode(text)


def test_transformers_loads_a_saved_folder_and_gives_the_same_ids(tokenizer: Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer.save(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "nurse <|user|> in berlin \u00e9"
    assert tuple(loaded(text, add_special_tokens=False)["input_ids"]) == tokenizer.encode(text)
    assert (loaded.pad_token_id, loaded.eos_token_id) == (tokenizer.pad, tokenizer.end)


@pytest.mark.parametrize("missing", CONTROL_TOKENS)
def test_a_tokenizer_without_a_control_token_is_refused_by_name(tokenizer: Tokenizer, missing: str) -> None:
    content = json.loads(tokenizer.to_json())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != missing]
    del content["model"]["vocab"][missing]
    with pytest.raises(UserError) as refusal:
        Tokenizer.from_json(json.dumps(content))
    assert missing in str(refusal.value)
    with pytest.raises(UserError, match="has no <"):
        Tokenizer(FastTokenizer(models.BPE()).to_str())


def test_a_missing_or_malformed_file_is_refused_by_path(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokenizer\.json does not exist"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("[]")
    with pytest.raises(UserError, match=r"tokenizer\.json is no"):
        Tokenizer.load(tmp_path)


def test_a_tokenizer_survives_its_folder_and_a_broken_one_is_refused(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["some words, some more words"], vocabulary_size=300)
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.encode("some <|user|> words é") == tokenizer.encode("some <|user|> words é")
    assert again.decode(again.encode("some <|user|> words é")) == "some <|user|> words é"
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="is not a valid tokenizer file"):
        Tokenizer.load(tmp_path)
    with pytest.raises(UserError, match="vocabulary_size is 10; set it to at least 262"):
        train_tokenizer([""], vocabulary_size=10)
