"""Text that is decoded piece by piece: whole characters, stop strings over several tokens, and the space of a start."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brew_data.prompts.tokenizer import Tokenizer
from brew_serve.ranking.text_decoder import TextDecoder

from ...base_tokenizers import FAMILIES, write_base_tokenizer

TEXTS = st.text(alphabet="ab \u00e9\u6771\U0001f600\n", max_size=20)
STOPS = st.lists(st.text(alphabet="ab \u00e9\u6771", min_size=1, max_size=4), max_size=3)


def pieces_of(decoder: TextDecoder, ids: list[int]) -> list[str]:
    pieces = []
    for id_ in ids:
        pieces.append(decoder.push(id_))
        if decoder.stopped:
            return pieces
    return [*pieces, decoder.finish()]


def byte_ids(tokenizer: Tokenizer, data: bytes) -> list[int]:
    """Return one token per byte."""
    ids = {tokenizer.token_bytes(id_): id_ for id_ in range(tokenizer.n_tokens) if id_ not in tokenizer.control_ids}
    return [ids[bytes([byte])] for byte in data]


@settings(deadline=None, max_examples=60)
@given(TEXTS, STOPS, st.booleans())
def test_a_text_ends_before_its_first_stop_string_however_it_is_split(
    tokenizer: Tokenizer, text: str, stops: list[str], bytewise: bool
) -> None:
    ids = byte_ids(tokenizer, text.encode()) if bytewise else list(tokenizer.encode(text))
    decoder = TextDecoder(tokenizer, stops)
    found = "".join(pieces_of(decoder, ids))
    ends = [(text.index(stop) + len(stop), text.index(stop)) for stop in stops if stop in text]
    if not ends:
        assert (found, decoder.stopped) == (text, False)
        assert decoder.characters == len(text)
    elif bytewise:  # the stop string that is complete first ends the text
        end = min(end for end, _ in ends)
        assert (found, decoder.stopped) == (text[: min(start for done, start in ends if done == end)], True)
    else:
        assert decoder.stopped
        assert text.startswith(found)
        assert not any(stop in found for stop in stops)


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=12))
def test_bytes_that_are_not_text_are_replaced_as_in_the_whole(tokenizer: Tokenizer, data: bytes) -> None:
    ids = byte_ids(tokenizer, data)
    assert "".join(pieces_of(TextDecoder(tokenizer), ids)) == data.decode("utf-8", "replace") == tokenizer.decode(ids)


def test_no_piece_has_a_part_of_a_character(tokenizer: Tokenizer) -> None:
    text = "\u00e9\u6771\U0001f600"
    pieces = pieces_of(TextDecoder(tokenizer), byte_ids(tokenizer, text.encode()))
    assert pieces == ["", "\u00e9", "", "", "\u6771", "", "", "", "\U0001f600", ""]


def test_text_that_can_begin_a_stop_string_is_held_back(tokenizer: Tokenizer) -> None:
    pieces = pieces_of(TextDecoder(tokenizer, ["abab!"]), byte_ids(tokenizer, b"xababab?"))
    assert pieces == ["x", "", "", "", "", "ab", "", "abab?", ""]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_of_each_family_is_that_of_its_tokenizer(family: str, tmp_path: Path) -> None:
    write_base_tokenizer(family, tmp_path)
    tokenizer = Tokenizer.from_model(tmp_path)
    for text in ("apply", "engineer at acme", "\u00e9 \u6771\U0001f600 a\n\nb", "two  spaces ", "<b>"):
        ids = list(tokenizer.encode(text))
        assert "".join(pieces_of(TextDecoder(tokenizer, strip_space=True), ids)) == text == tokenizer.decode(ids)
        spelled = b"".join(map(tokenizer.token_bytes, ids)).decode()
        assert spelled in (text, " " + text)
        assert "".join(pieces_of(TextDecoder(tokenizer), ids)) == spelled
