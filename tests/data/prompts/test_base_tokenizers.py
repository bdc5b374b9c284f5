"""Tokenizers of base models: their control tokens, and that no file lets text yield one of them."""

import json
import pickle
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as FastTokenizer

from brew_data.prompts.chat import chat_ids
from brew_data.prompts.control_tokens import TOKEN_FAMILIES, ControlTokens, choose_control_tokens
from brew_data.prompts.tokenizer import Tokenizer, TokenizerConfig
from brew_platform.errors import ConfigError, UserError

from ...base_tokenizers import FAMILIES, make_base_tokenizer

Content = dict[str, Any]
NAMES = {"gemma3": "Gemma 3", "llama3": "Llama 3", "qwen3": "Qwen 2.5 and 3", "mixtral": "Llama 2, Mistral and Mixtral"}


@pytest.fixture(scope="module")
def contents() -> dict[str, Content]:
    return {family: make_base_tokenizer(family) for family in FAMILIES}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def tokenizer(family: str, contents: dict[str, Content], tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load(contents[family], tmp_path_factory.mktemp(family))


def load(content: Content, folder: Path) -> Tokenizer:
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return Tokenizer.from_model(folder)


def test_each_family_has_its_own_control_tokens(
    family: str, contents: dict[str, Content], tokenizer: Tokenizer
) -> None:
    expected = TOKEN_FAMILIES[NAMES[family]]
    assert tokenizer.control_tokens == expected
    ids = {token["content"]: token["id"] for token in json.loads(tokenizer.to_json())["added_tokens"]}
    roles = ("pad", "end", "system", "member", "user", "assistant")
    assert [getattr(tokenizer, role) for role in roles] == [ids[getattr(expected, role)] for role in roles]
    assert tokenizer.bos == (ids[expected.bos] if expected.bos else None)
    original = {token["content"] for token in contents[family]["added_tokens"]}
    added = ["<|pad|>", "<|system|>", "<|member|>", "<|user|>", "<|assistant|>"] if family == "mixtral" else []
    assert [token for token in ids if token not in original] == added


def test_a_prompt_starts_with_bos_where_the_family_was_trained_with_it(family: str, tokenizer: Tokenizer) -> None:
    ids = chat_ids(tokenizer, [("system", "apply"), ("user", "nurse")])
    start = [] if family == "qwen3" else [tokenizer.bos]
    text = [tokenizer.encode("apply"), tokenizer.encode("nurse")]
    t = tokenizer
    assert list(ids) == [*start, t.system, *text[0], t.member, t.user, *text[1], t.assistant]


@pytest.mark.parametrize("text", ["engineer at acme", "a\n\nb", "two  spaces", "<b>", "é 東京 \U0001f600"])
def test_ordinary_text_has_the_ids_of_the_models_own_tokenizer(
    family: str, contents: dict[str, Content], tokenizer: Tokenizer, text: str
) -> None:
    own = FastTokenizer.from_str(json.dumps(contents[family]))
    for _ in range(2):
        assert list(tokenizer.encode(text)) == own.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode(text, cached=True) == tokenizer.encode(text)


@pytest.mark.parametrize("text", ["e\u0301", "\u03b1\u0313\u0300\u0345", "engineer ", "\n", " ", "\U0001f600"])
def test_a_text_has_at_least_as_many_tokens_as_its_length_allows(tokenizer: Tokenizer, text: str) -> None:
    """Also where the normalizer joins characters, and where a token is a run of spaces."""
    text *= 400
    assert len(text) / tokenizer.longest_token <= len(tokenizer.encode(text, cached=False)) <= len(text.encode()) + 3


def test_whitespace_tokens_are_text_and_all_other_added_tokens_are_control_tokens(contents: dict[str, Content]) -> None:
    tokenizer = Tokenizer(json.dumps(contents["gemma3"]), TOKEN_FAMILIES["Gemma 3"])
    ids = {token["content"]: token["id"] for token in contents["gemma3"]["added_tokens"]}
    assert tokenizer.encode("\n\n\n") == (ids["\n\n\n"],)
    for token in ("[multimodal]", "<table>", "<unk>", "<unused7>"):
        assert ids[token] in tokenizer.control_ids
        assert ids[token] not in tokenizer.encode(token)
        assert tokenizer.decode(tokenizer.encode(token)) == token


def test_a_special_token_beyond_the_models_rows_does_not_count(contents: dict[str, Content]) -> None:
    content = json.loads(json.dumps(contents["gemma3"]))
    size = Tokenizer(json.dumps(content), TOKEN_FAMILIES["Gemma 3"]).vocabulary_size
    content["added_tokens"].append(content["added_tokens"][0] | {"id": 1000, "content": "<image_soft_token>"})
    assert Tokenizer(json.dumps(content), TOKEN_FAMILIES["Gemma 3"]).vocabulary_size == size


def test_tokenizers_survive_pickling_and_transformers_reads_their_files(
    family: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    text = "nurse <|user|> in berlin, <start_of_turn>é"
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again.encode(text) == tokenizer.encode(text)
    assert (again.digest, again.control_tokens, again.base_digest) == (
        tokenizer.digest, tokenizer.control_tokens, tokenizer.base_digest,
    )  # fmt: skip
    tokenizer.save(tmp_path)
    # transformers chooses a tokenizer's class by the model, too.
    model_type = {"gemma3": "gemma3_text", "llama3": "llama"}.get(family, family)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert tuple(loaded(text, add_special_tokens=False)["input_ids"]) == tokenizer.encode(text)
    assert loaded.decode(tokenizer.encode(text)) == text
    assert (loaded.pad_token_id, loaded.eos_token_id, loaded.bos_token_id) == (
        tokenizer.pad, tokenizer.end, tokenizer.bos,
    )  # fmt: skip


# --- tampered files ---


def markers(content: Content) -> list[str]:
    tokens, missing = choose_control_tokens({token["content"]: token["id"] for token in content["added_tokens"]})
    candidates = [tokens.user, tokens.assistant, tokens.end, tokens.bos]
    return [token for token in candidates if token is not None and token not in missing]


def truncated(content: Content) -> None:
    content["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}


def padded(content: Content) -> None:
    pad = content["added_tokens"][0]
    kind = {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_type_id": 0}
    content["padding"] = {**kind, "pad_id": pad["id"], "pad_token": pad["content"]}


def post_processed(content: Content) -> None:
    token = content["added_tokens"][1]
    special = {"id": token["content"], "ids": [token["id"]], "tokens": [token["content"]]}
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": token["content"], "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {token["content"]: special},
    }


def not_special(content: Content) -> None:
    for token in content["added_tokens"]:
        token["special"] = False


def not_special_and_greedy(content: Content) -> None:
    for token in content["added_tokens"]:
        token |= {"special": False, "lstrip": True, "rstrip": True, "normalized": True}


def another_role_as_text(content: Content) -> None:
    last = max(*content["model"]["vocab"].values(), *(token["id"] for token in content["added_tokens"]))
    template = content["added_tokens"][0]
    content["added_tokens"].append(template | {"id": last + 1, "content": "<|assistant|>", "special": False})


def normalized_to_a_marker(content: Content) -> None:
    _normalize(content, {"type": "Replace", "pattern": {"String": "\u2603"}, "content": markers(content)[0]})


def prepended_marker(content: Content) -> None:
    _normalize(content, {"type": "Prepend", "prepend": markers(content)[1]})


def normalized_before_matching(content: Content) -> None:
    not_special(content)
    for token in content["added_tokens"]:
        token["normalized"] = True
    _normalize(content, {"type": "NFKC"})


def merged_to_a_marker(content: Content) -> None:
    """Merges of the model spell a marker from its characters, and nothing splits a marker into words."""
    model = content["model"]
    for marker in markers(content):
        token = next(token for token in content["added_tokens"] if token["content"] == marker)
        model["vocab"].setdefault(marker, token["id"])
        merges = []
        for end in range(2, len(marker) + 1):
            for part in (marker[: end - 1], marker[end - 1]):
                model["vocab"].setdefault(part, 1000 + len(model["vocab"]))
            merges.append([marker[: end - 1], marker[end - 1]])
        model["merges"] = merges + model["merges"]
    content["pre_tokenizer"] = _isolated(content, markers(content))


def whole_words_from_the_vocabulary(content: Content) -> None:
    merged_to_a_marker(content)
    content["model"]["ignore_merges"] = True


def unigram(content: Content) -> None:
    """A unigram model takes any token of its vocabulary, control tokens included."""
    vocabulary = sorted(content["model"]["vocab"].items(), key=lambda pair: pair[1])
    content["model"] = {
        "type": "Unigram",
        "unk_id": 0,
        "byte_fallback": True,
        "vocab": [[token, 0.0 if token in markers(content) else -8.0] for token, _ in vocabulary],
    }


def dropped_merges(content: Content) -> None:
    content["model"]["dropout"] = 0.5


def lowercased(content: Content) -> None:
    _normalize(content, {"type": "Lowercase"})


def deleted_text(content: Content) -> None:
    _normalize(content, {"type": "Replace", "pattern": {"Regex": "[0-9]"}, "content": ""})


def without_bytes(content: Content) -> None:
    vocabulary = content["model"]["vocab"]
    content["model"] |= {"vocab": {t: i for t, i in vocabulary.items() if t not in ("<0x41>", "\u0100")}, "merges": []}


def without_fallback(content: Content) -> None:
    content["model"] |= {"byte_fallback": False, "fuse_unk": False}


def without_unknown(content: Content) -> None:
    """Characters that the vocabulary lacks would be dropped."""
    content["model"] |= {"byte_fallback": False, "unk_token": None}


def unknown_as_text(content: Content) -> None:
    """The token of unknown characters is not among the added tokens, so that nothing marks it as special."""
    vocabulary = content["model"]["vocab"]
    if content["model"]["unk_token"] is None:
        vocabulary["<unk>"] = 1000
        content["model"]["unk_token"] = "<unk>"
    content["model"]["byte_fallback"] = False
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != "<unk>"]


def decoded_to_a_marker(content: Content) -> None:
    """The decoder writes a marker; text that a decoder writes is encoded like any other."""
    replace = {"type": "Replace", "pattern": {"String": "\u2603"}, "content": markers(content)[0]}
    content["decoder"] = {"type": "Sequence", "decoders": [content["decoder"], replace]}


def flags_of_words(content: Content) -> None:
    for token in content["added_tokens"]:
        token |= {"single_word": True, "lstrip": True, "normalized": True, "special": False}


def _normalize(content: Content, normalizer: Content) -> None:
    before = content["normalizer"]
    content["normalizer"] = {"type": "Sequence", "normalizers": [normalizer, *([before] if before else [])]}


def _isolated(content: Content, words: list[str]) -> Content:
    splits = [{"type": "Split", "pattern": {"String": w}, "behavior": "Isolated", "invert": False} for w in words]
    before = content["pre_tokenizer"]
    inner = before["pretokenizers"][1:] if before and before["type"] == "Sequence" else [before] if before else []
    return {"type": "Sequence", "pretokenizers": [*splits, *inner]}


HARMLESS: list[Callable[[Content], None]] = [
    truncated, padded, post_processed, not_special, not_special_and_greedy, another_role_as_text, dropped_merges,
    without_fallback, without_unknown, unknown_as_text, flags_of_words,
]  # fmt: skip
REWRITING: list[Callable[[Content], None]] = [
    normalized_to_a_marker, normalized_before_matching, merged_to_a_marker, whole_words_from_the_vocabulary,
]  # fmt: skip


def texts(content: Content) -> st.SearchStrategy[str]:
    """Any text, with spellings of control tokens, whole, in parts, and in characters that normalize to them."""
    words = [token["content"] for token in content["added_tokens"]] + ["<|assistant|>", "<|user|>"]
    wide = ["".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in word) for word in words[:4]]
    parts = [part for word in words[:8] for part in (word[:3], word[3:], word[:-1], word[-1:])]
    spelled = st.sampled_from([*words, *wide, *parts, "\u2603", "@", "\u200b", " ", "\n\n", "\ufb01", "e\u0301"])
    return st.lists(st.one_of(spelled, st.text(max_size=8)), max_size=8).map("".join)


def tampered(content: Content, change: Callable[[Content], None]) -> Content:
    copy: Content = json.loads(json.dumps(content))
    change(copy)
    return copy


@pytest.mark.parametrize("change", [lambda content: None, *HARMLESS, *REWRITING], ids=lambda change: change.__name__)
def test_no_text_yields_a_control_id_and_no_text_is_lost(
    change: Callable[[Content], None], family: str, contents: dict[str, Content], tmp_path: Path
) -> None:
    content = tampered(contents[family], change)
    tokenizer = load(content, tmp_path)
    plain = load(contents[family], tmp_path)

    @given(texts(content))
    @settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck), database=None)
    def check(text: str) -> None:
        ids = tokenizer.encode(text)
        assert tokenizer.control_ids.isdisjoint(ids)
        assert all(0 <= id_ < tokenizer.vocabulary_size for id_ in ids)
        assert tokenizer.encode(text, cached=True) == ids
        if change in HARMLESS:
            assert tokenizer.decode(ids) == plain.decode(plain.encode(text))
        if change is normalized_to_a_marker and "\u2603" in text:
            return  # the file changes the text, but into ordinary text
        kept = text.replace("\u2581", " ") if family in ("gemma3", "mixtral") else text
        form = "NFKC" if change is normalized_before_matching else "NFC" if family == "qwen3" else None
        if form is None:
            assert tokenizer.decode(ids) == kept
        else:  # bytes of characters that would normalize to a marker stay as they are
            assert unicodedata.normalize(form, tokenizer.decode(ids)) == unicodedata.normalize(form, kept)

    check()


@pytest.mark.parametrize("name", ["gemma3", "mixtral"])
def test_a_unigram_model_cannot_be_led_to_a_control_token(
    name: str, contents: dict[str, Content], tmp_path: Path
) -> None:
    content = tampered(contents[name], unigram)
    own = FastTokenizer.from_str(json.dumps(content))
    own.encode_special_tokens = True
    marker = markers(content)[-1]
    assert own.token_to_id(marker) in own.encode(f"a {marker}", add_special_tokens=False).ids  # what must not happen
    tokenizer = load(content, tmp_path)

    @given(texts(content))
    @settings(deadline=None, max_examples=100, suppress_health_check=list(HealthCheck), database=None)
    def check(text: str) -> None:
        ids = tokenizer.encode(text)
        assert tokenizer.control_ids.isdisjoint(ids)
        assert tokenizer.decode(ids) == text.replace("\u2581", " ")

    check()


@pytest.mark.parametrize("change", [lowercased, deleted_text, prepended_marker], ids=lambda change: change.__name__)
def test_a_tokenizer_that_changes_text_is_refused(
    change: Callable[[Content], None], family: str, contents: dict[str, Content], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"the tokenizer changes text: .* becomes .* Use the tokenizer\.json that"):
        load(tampered(contents[family], change), tmp_path)


def test_a_tokenizer_that_cannot_spell_every_byte_is_refused(
    family: str, contents: dict[str, Content], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="has no token for each byte, so it cannot encode every text"):
        load(tampered(contents[family], without_bytes), tmp_path)


def same_id_for_two_roles(content: Content) -> None:
    first, second = (t for t in content["added_tokens"] if t["content"] in markers(content)[:2])
    second["id"] = first["id"]


def id_of_a_word(content: Content) -> None:
    model = content["model"]["vocab"]
    ordinary = next(token for token in model if token not in {t["content"] for t in content["added_tokens"]})
    model[ordinary] = content["added_tokens"][0]["id"]


def two_ids(content: Content) -> None:
    content["added_tokens"].append(content["added_tokens"][0] | {"id": 5_000})


def shared_id_of_words(content: Content) -> None:
    model = content["model"]["vocab"]
    *_, first, second = (t for t in model if len(t) > 3)
    model[second] = model[first]


@pytest.mark.parametrize(
    "change", [same_id_for_two_roles, id_of_a_word, two_ids, shared_id_of_words], ids=lambda change: change.__name__
)
def test_ids_that_are_not_of_one_token_are_refused(
    change: Callable[[Content], None], family: str, contents: dict[str, Content], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="one id to several tokens, or several ids to one token"):
        load(tampered(contents[family], change), tmp_path)


def test_a_decoder_that_writes_a_marker_does_not_open_a_turn(
    family: str, contents: dict[str, Content], tmp_path: Path
) -> None:
    tokenizer = load(tampered(contents[family], decoded_to_a_marker), tmp_path)
    written = tokenizer.decode(tokenizer.encode("a \u2603"))
    assert tokenizer.control_ids.isdisjoint(tokenizer.encode(written))


def test_half_of_a_character_is_refused(tokenizer: Tokenizer) -> None:
    for text in ("a\ud83d", "a\ud83d" * 20_000):
        with pytest.raises(UserError, match="half of a surrogate pair"):
            tokenizer.encode(text)


def test_a_file_with_other_text_settings_gives_the_same_prompts(
    family: str, contents: dict[str, Content], tmp_path: Path
) -> None:
    plain = load(contents[family], tmp_path)
    for change in (truncated, padded, post_processed, not_special):
        assert load(tampered(contents[family], change), tmp_path).digest == plain.digest


# --- loading ---


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no tokenizer\.json, so its token ids have no meaning\. Copy"):
        Tokenizer.from_model(tmp_path)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    for name in ("model.gguf", "google/gemma-3-270m"):
        with pytest.raises(UserError, match=rf"{name} is not a folder\. Download the model and pass its folder"):
            Tokenizer.from_model(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "has no model or malformed added_tokens"),
        ("[]", "has no model or malformed added_tokens"),
        ('{"model": {"vocab": 3}}', "has a malformed vocabulary"),
        ('{"model": {"vocab": {"a": 0}, "merges": []}}', "has the tokens of none of the families Gemma 3, Llama 3,"),
        ('{"added_tokens": [{"content": 3, "id": 0}], "model": {}}', "has no model or malformed added_tokens"),
        ("[" * 100_000, "has no model or malformed added_tokens"),
        ('{"model": {"vocab": {"a": "0"}}}', "has a malformed vocabulary"),
        ('{"model": {"vocab": {"a": -1}}}', "has a malformed vocabulary"),
        ('{"model": {"vocab": {"a": 4000000000}}}', "has a malformed vocabulary"),
        (
            '{"model": {"vocab": {"a": 0}}, "added_tokens": [{"content": "b", "id": true}]}',
            "has a malformed vocabulary",
        ),
    ],
)
def test_a_file_that_is_no_known_tokenizer_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(UserError, match=message):
        Tokenizer.from_model(tmp_path)


def test_a_token_of_unknown_characters_that_is_no_text_is_refused(
    family: str, contents: dict[str, Content], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        load(tampered(contents[family], lambda content: content["model"].update(unk_token=["x"])), tmp_path)


def test_a_sentencepiece_tokenizer_is_converted(tmp_path: Path) -> None:
    import sentencepiece

    (tmp_path / "corpus.txt").write_text("engineer at acme in berlin\nnurse in paris\napply skip like\n" * 50)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "corpus.txt"), model_prefix=str(tmp_path / "tokenizer"), vocab_size=330,
        model_type="bpe", byte_fallback=True, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    tokenizer = Tokenizer.from_model(tmp_path)
    assert tokenizer.control_tokens == TOKEN_FAMILIES["Llama 2, Mistral and Mixtral"]
    text = "engineer </s> in berlin \u00e9"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.control_ids.isdisjoint(tokenizer.encode(text))
    piece = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    assert list(tokenizer.encode("engineer in berlin")) == piece.encode("engineer in berlin")


def test_a_tokenizer_that_cannot_be_converted_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"not a model")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match=r"has no tokenizer\.json and cannot be converted \(.*\)\. Load it with"):
        Tokenizer.from_model(tmp_path)


def test_control_tokens_must_differ_and_have_every_role() -> None:
    roles = dict.fromkeys(("pad", "end", "system", "member", "user", "assistant"), "x") | {"bos": None}
    with pytest.raises(UserError, match="are not distinct words"):
        ControlTokens.from_dict(roles)
    for data in (None, {}, roles | {"extra": "y"}, roles | {"pad": 3}):
        with pytest.raises(UserError, match="are not a map of assistant, bos, end"):
            ControlTokens.from_dict(data)


def test_tokenizer_settings_out_of_range_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"vocabulary_size is 261; give an integer, at least 262 and at most 1,000,000"
    ):
        TokenizerConfig(vocabulary_size=261)
    with pytest.raises(ConfigError, match=r"^from is empty; give the folder of a model"):
        TokenizerConfig(from_="")


# --- cache ---


def test_the_cache_stays_within_its_bytes_and_keeps_no_text_unless_the_caller_says_so(
    contents: dict[str, Content], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("brew_data.prompts.tokenizer.CACHE_BYTES", 20_000)
    tokenizer = Tokenizer(json.dumps(contents["llama3"]), TOKEN_FAMILIES["Llama 3"])
    kept = tokenizer._cache
    assert tokenizer.encode("nurse") == tokenizer.encode("nurse", cached=True)
    assert (len(kept), kept.get("nurse")) == (1, tokenizer.encode("nurse"))
    for number in range(300):
        assert tokenizer.encode(f"text {number}", cached=True) == tokenizer.encode(f"text {number}")
        assert kept.bytes <= 20_000
    assert 1 < len(kept) < 300
    tokenizer.encode("long " * 5_000, cached=True)
    assert kept.get("text 299") is not None
    assert kept.get("long " * 5_000) is None
