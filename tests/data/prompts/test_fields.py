"""One rule turns field values into text: what is absent, how numbers and lists are written, and what is refused."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brew_data.prompts.fields import field_values
from brew_platform.errors import UserError

SCALARS = st.one_of(
    st.none(),
    st.text(max_size=20),
    st.booleans(),
    st.integers(),
    st.floats(allow_infinity=False),
    st.decimals(allow_infinity=False),
)


@pytest.mark.parametrize(
    "absent",
    [
        None,
        "",
        "  \t\n",
        "\u2003",
        "ana@example.com",
        ["+1 202-555-0142"],
        float("nan"),
        Decimal("nan"),
        [],
        [None, " ", float("nan")],
    ],
)
def test_absent_values_are_left_out(absent: object) -> None:
    assert field_values({"title": absent, "company": "acme"}) == {"company": "acme"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("  head \t\n nurse\u2028x ", "head nurse x"),
        ("nan", "nan"),  # text is text
        (True, "yes"),
        (False, "no"),
        (0, "0"),
        (-0.0, "0"),
        (3.0, "3"),
        (3.50, "3.5"),
        (0.1, "0.1"),
        (1e-7, "1e-07"),
        (1e300, "1e+300"),
        (10**30, str(10**30)),
        (np.float64(2.0), "2"),
        (np.float32(0.5), "0.5"),
        (Decimal("3.00"), "3"),
        (Decimal("2.50"), "2.5"),
        (date(2026, 1, 31), "2026-01-31"),
        (datetime(2026, 1, 31, 12, tzinfo=UTC), "2026-01-31 12:00:00+00:00"),
        (["care", " law ", "", None, "go\nup"], "care, law, go up"),
        (("a",), "a"),
        ([1.0, True], "1, yes"),
        ("nurse, mail ana@example.com", "nurse, mail"),
        (["care", "ana@example.com", "law"], "care, law"),
        ("2001: A Space Odyssey (1968)", "2001: A Space Odyssey (1968)"),
    ],
)
def test_values_have_one_text(value: object, text: str) -> None:
    assert field_values({"x": value}) == {"x": text}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": 1}, r"field 'skills' holds a value of type dict, which a prompt cannot show"),
        ([["a"]], r"field 'skills\[0\]' holds a value of type list"),
        (["a", {"b": 1}], r"field 'skills\[1\]' holds a value of type dict"),
        (b"bytes", "type bytes"),
        ({"a"}, "type set"),
        (float("inf"), "field 'skills' is inf, which is not a finite number"),
        ("a\ud83d", "field 'skills' is not valid Unicode"),
        (["a", "\udc80"], r"field 'skills\[1\]' is not valid Unicode"),
        ([-np.inf], r"field 'skills\[0\]' is -inf"),
    ],
)
def test_other_values_are_refused_with_the_fields_name(value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        field_values({"skills": value})


@given(st.dictionaries(st.text(max_size=5), st.one_of(SCALARS, st.lists(SCALARS, max_size=4)), max_size=5))
def test_the_text_of_a_text_is_itself(fields: dict[str, object]) -> None:
    values = field_values(fields)
    assert field_values(values) == values
    assert all(text and text == " ".join(text.split()) for text in values.values())
