"""The schema of the tables: invalid tables are refused with a precise message, and Parquet files round-trip."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from brew_data.schema import TIMESTAMP, Tables, micros, read_tables, write_tables
from brew_platform.errors import DataError


def tables(**changes: pa.Table | None) -> Tables:
    """Two members, two entities and three interactions."""
    parts: dict[str, pa.Table | None] = {
        "members": pa.table(
            {
                "member_id": ["m1", "m2"],
                "profile": [{"title": "nurse"}, {"title": None}],
                "locale": ["en", "de"],
                "opted_out": [False, True],
            }
        ),
        "entities": pa.table(
            {
                "entity_id": ["e1", "e2"],
                "entity_type": ["job", "post"],
                "created_at": pa.array([0, 5], TIMESTAMP),
                "fields": [{"title": "clerk"}, {"title": "words"}],
            }
        ),
        "interactions": pa.table(
            {
                "interaction_id": [1, 2, 3],
                "member_id": ["m1", "m2", "m1"],
                "entity_id": ["e1", "e1", "e2"],
                "surface": ["jobs", "jobs", "feed"],
                "action": ["apply", "skip", "like"],
                "timestamp": pa.array([10, 10, 20], TIMESTAMP),
            }
        ),
        "oracle": pa.table(
            {"interaction_id": [1, 2, 3], "action": ["apply", "apply", "like"], "probability": [0.5, 0.25, 0.0]}
        ),
        "connections": pa.table(
            {
                "member_id": ["m1", "m1"],
                "other_id": ["m2", "m2"],
                "kind": ["connection", "follow"],
                "timestamp": pa.array([7, 3], TIMESTAMP),
            }
        ),
    }
    return Tables(**(parts | changes))  # type: ignore[arg-type]


def with_column(table: pa.Table, name: str, values: list | pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, pa.array(values))


COLUMNS = [
    (name, column)
    for name in ["members", "entities", "interactions", "oracle", "connections"]
    for column in getattr(tables(), name).column_names
]


@pytest.mark.parametrize(("name", "column"), COLUMNS)
def test_a_missing_column_is_refused_by_name(name: str, column: str) -> None:
    table = getattr(tables(), name)
    with pytest.raises(DataError, match=rf"table {name}: column '{column}' is missing.*Write the columns .*{column}"):
        tables(**{name: table.drop([column])})


@pytest.mark.parametrize(("name", "column"), COLUMNS)
def test_a_column_of_another_type_is_refused_with_the_type_that_is_needed(name: str, column: str) -> None:
    table = getattr(tables(), name)
    needed = "a struct of strings" if column in ("profile", "fields") else str(table.schema.field(column).type)
    wrong = pa.array([b"x"] * table.num_rows)
    with pytest.raises(DataError) as refusal:
        tables(**{name: with_column(table, column, wrong)})
    assert f"table {name}: column {column!r} is binary, but {needed} is needed" in str(refusal.value)


@pytest.mark.parametrize(("name", "column"), COLUMNS)
def test_a_null_is_refused_with_the_number_of_nulls(name: str, column: str) -> None:
    table = getattr(tables(), name)
    values = pa.array([*table[column].to_pylist()[:-1], None], table.schema.field(column).type)
    with pytest.raises(DataError, match=f"table {name}: column '{column}' has 1 empty values. Fill them"):
        tables(**{name: with_column(table, column, values)})


def test_a_timestamp_without_time_zone_or_of_another_unit_is_refused() -> None:
    good = tables().interactions
    for other in [pa.timestamp("us"), pa.timestamp("ms", tz="UTC")]:
        changed = with_column(good, "timestamp", pa.array([1, 2, 3], other))
        with pytest.raises(
            DataError, match=r"'timestamp' is timestamp.* but timestamp\[us, tz=UTC\] is needed. Cast it"
        ):
            tables(interactions=changed)


@pytest.mark.parametrize(
    ("name", "key", "values"),
    [
        ("members", "member_id", ["m1", "m1"]),
        ("entities", "entity_id", ["e1", "e1"]),
        ("interactions", "interaction_id", [1, 2, 1]),
    ],
)
def test_a_repeated_id_is_refused(name: str, key: str, values: list) -> None:
    with pytest.raises(DataError, match=f"table {name}: {key} is repeated.*Remove the repeated rows"):
        tables(**{name: with_column(getattr(tables(), name), key, values)})


@pytest.mark.parametrize(
    ("key", "values", "owner"),
    [("member_id", ["m1", "m9", "m8"], "members"), ("entity_id", ["e1", "m9", "e2"], "entities")],
)
def test_an_interaction_of_an_unknown_id_is_refused_with_its_first_row(key: str, values: list, owner: str) -> None:
    with pytest.raises(DataError, match=f"row 1 names {key} 'm9', which the {owner} table does not have"):
        tables(interactions=with_column(tables().interactions, key, values))


@pytest.mark.parametrize(("name", "key"), [("members", "member_id"), ("entities", "entity_id")])
@pytest.mark.parametrize("id_", ["", " \t", "x" * 201])
def test_an_id_that_no_request_can_name_is_refused(name: str, key: str, id_: str) -> None:
    changed = with_column(getattr(tables(), name), key, ["a", id_])
    with pytest.raises(DataError, match=f"table {name}: row 1 has the {key} .* an id has 1 to 200 characters"):
        tables(**{name: changed, "interactions": tables().interactions.slice(0, 0)})


@pytest.mark.parametrize(("name", "column"), [("interactions", "timestamp"), ("entities", "created_at")])
@pytest.mark.parametrize("moment", [881_250_949_000_000_000, -(2**60)])
def test_a_time_of_another_unit_is_refused(name: str, column: str, moment: int) -> None:
    table = getattr(tables(), name)
    changed = with_column(table, column, pa.array([moment] * table.num_rows, TIMESTAMP))
    with pytest.raises(
        DataError, match=f"row 0 has the {column} {moment}, which is not in the years 1800 to 2099 in micro"
    ):
        tables(**{name: changed})


@pytest.mark.parametrize(("name", "column"), [("members", "profile"), ("entities", "fields")])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([{"pay": 1.0}, {"pay": float("inf")}], "'(m2|e2)': the field 'pay' .* is inf, which is not a finite number"),
        ([{"pay": [1.0]}, {"pay": [float("-inf")]}], "'(m2|e2)': the field 'pay' .* is -inf"),
        (
            [{"job": {"a": 1}}, {"job": {"a": 2}}],
            r"the field 'job' .* is of type struct<a: int64>, which a prompt cannot",
        ),
        ([{"job": [["a"]]}, {"job": None}], "the field 'job' .* is of type list<.*>, which a prompt cannot show"),
        ([{"job": b"a"}, {"job": None}], "the field 'job' .* is of type binary, which a prompt cannot show"),
    ],
)
def test_a_field_that_a_prompt_cannot_show_is_refused(name: str, column: str, values: list, message: str) -> None:
    with pytest.raises(DataError, match=message):
        tables(**{name: with_column(getattr(tables(), name), column, values)})


def test_a_field_that_occurs_twice_is_refused() -> None:
    struct = pa.StructArray.from_arrays([pa.array(["a", "b"])] * 2, names=["x", "x"])
    with pytest.raises(DataError, match="profile has the field 'x' more than once"):
        tables(members=with_column(tables().members, "profile", struct))


def test_text_that_is_not_utf_8_is_refused() -> None:
    raw = pa.array([b"caf\xe9", b"b"])
    text = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    struct = pa.StructArray.from_arrays([text], names=["title"])
    with pytest.raises(DataError, match="table members has text that is not UTF-8"):
        tables(members=with_column(tables().members, "profile", struct))


def test_an_author_may_be_absent_or_unknown(tmp_path: Path) -> None:
    for authors in (["m1", None], [None, None], ["m9", "m2"]):
        entities = tables().entities.append_column("author_id", pa.array(authors, pa.string()))
        write_tables(tables(entities=entities), tmp_path)
        assert read_tables(tmp_path).entities["author_id"].to_pylist() == authors


@pytest.mark.parametrize(
    ("authors", "message"),
    [
        (pa.array([1, 2]), "column 'author_id' is int64, but string is needed. Cast it"),
        (pa.array(["m1", " "]), "row 1 has the author_id ' ', but an id has 1 to 200 characters"),
    ],
)
def test_an_author_id_that_is_not_an_id_is_refused(authors: pa.Array, message: str) -> None:
    with pytest.raises(DataError, match=f"table entities: {message}"):
        tables(entities=tables().entities.append_column("author_id", authors))


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("member_id", ["m1", "m9"], "row 1 names member_id 'm9', which the members table does not have"),
        ("other_id", ["m9", "m2"], "row 0 names other_id 'm9', which the members table does not have"),
        ("other_id", ["m2", "m1"], "row 1 connects member 'm1' with themselves"),
        ("kind", ["connection", "friend"], "row 1 has the kind 'friend', but must have 'connection' or 'follow'"),
        ("kind", ["follow", "follow"], "member_id, other_id and kind are repeated"),
        ("timestamp", pa.array([0, 2**62], TIMESTAMP), "row 1 has the timestamp .* not in the years 1800 to 2099"),
    ],
)
def test_a_connection_that_cannot_be_is_refused(column: str, values: list, message: str) -> None:
    connections = tables().connections
    assert connections is not None
    with pytest.raises(DataError, match=f"table connections: {message}"):
        tables(connections=with_column(connections, column, values))


@pytest.mark.parametrize("probability", [float("nan"), -0.1, 1.5])
def test_a_probability_out_of_range_is_refused(probability: float) -> None:
    oracle = with_column(tables().oracle, "probability", [0.5, probability, 0.0])  # type: ignore[arg-type]
    with pytest.raises(DataError, match="table oracle: row 1 has the probability"):
        tables(oracle=oracle)


def test_rows_out_of_order_are_refused_and_equal_moments_are_not() -> None:
    good = tables().interactions
    assert micros(good).to_pylist() == [10, 10, 20]
    with pytest.raises(DataError, match="rows are not sorted by timestamp. Sort them"):
        tables(interactions=good.take([2, 0, 1]))


def test_rows_out_of_order_are_found_between_chunks() -> None:
    good = tables().interactions
    with pytest.raises(DataError, match="not sorted by timestamp"):
        tables(interactions=pa.concat_tables([good.slice(2), good.slice(0, 2)]))


def test_no_interactions_and_no_optional_tables_are_accepted() -> None:
    empty = tables(interactions=tables().interactions.slice(0, 0), oracle=None, connections=None)
    assert empty.interactions.num_rows == 0
    assert tables(connections=tables().connections.slice(0, 0)).connections.num_rows == 0  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "change", [lambda t: t, lambda t: replace(t, oracle=None), lambda t: replace(t, connections=None)]
)
def test_tables_are_equal_after_a_round_trip_through_parquet(tmp_path: Path, change: Callable) -> None:
    written: Tables = change(tables())
    write_tables(written, tmp_path / "made" / "tables")
    read = read_tables(tmp_path / "made" / "tables")
    assert read == written
    assert micros(read.interactions).to_pylist() == [10, 10, 20]
    assert read.members["profile"].to_pylist() == [{"title": "nurse"}, {"title": None}]


@pytest.mark.parametrize("name", ["members", "entities", "interactions"])
def test_a_missing_file_is_refused_by_path(tmp_path: Path, name: str) -> None:
    write_tables(tables(), tmp_path)
    (tmp_path / f"{name}.parquet").unlink()
    with pytest.raises(DataError, match=rf"{name}\.parquet does not exist. A folder of tables needs {name}\.parquet"):
        read_tables(tmp_path)


@pytest.mark.parametrize("name", ["members", "entities", "interactions", "oracle", "connections"])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_truncated_file_is_refused_by_path(tmp_path: Path, name: str, share: float) -> None:
    write_tables(tables(), tmp_path)
    path = tmp_path / f"{name}.parquet"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=rf"{name}\.parquet cannot be read as Parquet .* Write it again"):
        read_tables(tmp_path)


def test_files_that_are_readable_but_inconsistent_are_refused(tmp_path: Path) -> None:
    write_tables(tables(), tmp_path / "a")
    other = with_column(tables().members, "member_id", ["x1", "x2"])
    none = tables().interactions.slice(0, 0)
    write_tables(tables(members=other, interactions=none, connections=None), tmp_path / "b")
    (tmp_path / "b" / "members.parquet").rename(tmp_path / "a" / "members.parquet")
    with pytest.raises(DataError, match="row 0 names member_id 'm1', which the members table does not have"):
        read_tables(tmp_path / "a")
