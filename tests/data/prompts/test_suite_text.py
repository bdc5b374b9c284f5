"""How records become text: absent fields, `lines`, and fields that hold line breaks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brew_data.prompts.suite import TaskSuite, load_suite
from brew_data.prompts.templates import RecordTemplate
from brew_platform.errors import UserError

# All that `str.splitlines` takes for the end of a line.
LINE_BREAKS = ["\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]


@pytest.fixture(scope="module")
def words() -> TaskSuite:
    """Templates of one entity type, without tasks."""
    return TaskSuite(
        name="words",
        profile=RecordTemplate(
            fields=["title", "location", "skills"],
            phrases=[
                "{{ title }}",
                "in {{ location }}",
                "{{ skills | lines }}",
                "{{ title }} in {{ location }}",
                "member",
            ],
        ),
        entities={
            "job": RecordTemplate(fields=["title", "company"], phrases=["{{ title }}", "at {{ company }}"]),
            "post": RecordTemplate(fields=["author"], phrases=["by {{ author }}"]),
        },
        surfaces=[],
    )


def test_phrases_are_lines_in_the_order_of_the_template(words: TaskSuite) -> None:
    text = words.profile_text({"location": "Berlin", "skills": "care", "title": "nurse", "unused": "x"})
    assert text == "nurse\nin Berlin\ncare\nnurse in Berlin\nmember\n"


@pytest.mark.parametrize(
    "absent", [{}, *({"location": value} for value in (None, "", " \n", float("nan"), [], ["", None]))]
)
def test_a_phrase_is_left_out_when_one_of_its_fields_is_absent(words: TaskSuite, absent: dict) -> None:
    assert words.profile_text({"title": "nurse"} | absent) == "nurse\nmember\n"


def test_false_and_zero_are_values(words: TaskSuite) -> None:
    assert words.entity_text("job", {"title": 0, "company": False}) == "0\nat no\n"


def test_a_record_without_fields_keeps_only_constant_phrases(words: TaskSuite) -> None:
    assert words.profile_text({}) == "member\n"
    assert words.entity_text("post", {}) == ""


def test_each_element_of_a_list_is_a_line_only_where_the_template_says_so(words: TaskSuite) -> None:
    assert words.profile_text({"skills": "care, law, go"}) == "care\nlaw\ngo\nmember\n"
    assert words.profile_text({"title": "care, law"}) == "care, law\nmember\n"


def test_braces_in_a_field_are_not_a_template(words: TaskSuite) -> None:
    assert words.profile_text({"title": "{location}", "skills": "{0}, {x.y}"}) == "{location}\n{0}\n{x.y}\nmember\n"


@pytest.mark.parametrize("line_break", LINE_BREAKS)
def test_a_line_break_in_a_field_becomes_a_space(words: TaskSuite, line_break: str) -> None:
    assert words.entity_text("job", {"title": f"nurse{line_break}at Acme"}) == "nurse at Acme\n"


def test_runs_of_white_space_become_one_space(words: TaskSuite) -> None:
    assert words.entity_text("job", {"title": "  head \t\n nurse  "}) == "head nurse\n"


@given(
    st.dictionaries(
        st.sampled_from(["title", "company"]),
        st.lists(st.one_of(st.text(), st.sampled_from(LINE_BREAKS)), max_size=5).map("".join),
    )
)
def test_no_field_adds_a_line(words: TaskSuite, fields: dict[str, str]) -> None:
    text = words.entity_text("job", fields)
    lines = text.splitlines()
    assert len(lines) <= len(fields)
    assert text == "".join(f"{line}\n" for line in lines)  # no other character ends a line


@given(st.lists(st.text(), max_size=5))
def test_a_list_adds_at_most_one_line_per_element(words: TaskSuite, elements: list[str]) -> None:
    text = words.profile_text({"skills": ", ".join(elements)})
    commas = ", ".join(elements).count(",")  # an element may hold commas itself
    assert text.endswith("member\n")
    assert len(text.splitlines()) <= commas + 2


def test_an_unknown_entity_type_is_refused_with_the_known_ones(words: TaskSuite) -> None:
    with pytest.raises(UserError, match="entity type 'film' is unknown; this model reads job, post"):
        words.entity_text("film", {})


def test_phrases_of_absent_fields_are_left_out() -> None:
    suite = load_suite("economic_graph")
    assert suite.profile_text({"title": "nurse", "location": None, "skills": "care"}) == "nurse\ncare\n"


def test_a_list_is_one_line_each_and_no_field_can_forge_a_line() -> None:
    suite = load_suite("economic_graph")
    assert suite.profile_text({"title": "a\nb, c", "skills": "care, law"}) == "a b, c\ncare\nlaw\n"
