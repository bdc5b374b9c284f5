"""The source `tables`: files become tables, and every row that does not fit is named with its line and reason."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from brew_data.schema import Tables, micros, read_tables, write_tables
from brew_data.sources.quarantine import Quarantine
from brew_data.sources.tables.config import TablesConfig
from brew_data.sources.tables.source import OwnTables
from brew_platform.config import load_config
from brew_platform.errors import ConfigError, DataError

INTERACTIONS = """user,item,event,stars,time
u1,010,view,4.5,2024-05-01T10:00:00Z
u2,3,buy,2,2024-05-01 09:00
u1,3,view,4,2024-05-02
"""
ITEMS = """id,name,tags
010,"Chair, oak",a
3,,b
"""
CONFIG: dict[str, Any] = {
    "interactions": {
        "files": ["interactions.csv"],
        "columns": {"member_id": "user", "entity_id": "item", "action": "event", "timestamp": "time"},
        "constants": {"surface": "shop"},
    },
    "entities": {
        "files": ["items.csv"],
        "columns": {"entity_id": "id"},
        "constants": {"entity_type": "product"},
        "fields": {"title": "name", "tags": "tags"},
    },
}

Make = Callable[..., OwnTables]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Writes the files and returns the source; keyword arguments change the configuration and the files."""
    monkeypatch.chdir(tmp_path)

    def make_source(*overrides: str, interactions: str = INTERACTIONS, items: str = ITEMS) -> OwnTables:
        Path("interactions.csv").write_text(interactions)
        Path("items.csv").write_text(items)
        return OwnTables(config=load_config(TablesConfig, CONFIG, overrides=overrides))

    return make_source


def read(source: OwnTables) -> tuple[Tables, Quarantine]:
    quarantine = Quarantine()
    return source.read_rows(quarantine), quarantine


def reasons(quarantine: Quarantine) -> dict[str, str]:
    """The examples by place, as `table FILE line N`."""
    return {
        f"{table} {example.partition(':')[0]}": reason
        for (table, reason), examples in quarantine.examples.items()
        for example in examples
    }


def test_two_csv_files_become_tables(make: Make) -> None:
    tables = make().read()
    assert tables.interactions.select(
        ["interaction_id", "member_id", "entity_id", "surface", "action"]
    ).to_pylist() == [
        {"interaction_id": 1, "member_id": "u2", "entity_id": "3", "surface": "shop", "action": "buy"},
        {"interaction_id": 0, "member_id": "u1", "entity_id": "010", "surface": "shop", "action": "view"},
        {"interaction_id": 2, "member_id": "u1", "entity_id": "3", "surface": "shop", "action": "view"},
    ]
    assert micros(tables.interactions).to_pylist()[0] == 1_714_554_000_000_000
    assert tables.entities["fields"].to_pylist() == [
        {"title": "Chair, oak", "tags": "a"}, {"title": None, "tags": "b"},
    ]  # fmt: skip
    assert tables.members["member_id"].to_pylist() == ["u2", "u1"]
    assert tables.members["locale"].to_pylist() == ["en", "en"]


def test_tables_without_profiles_survive_a_round_trip(make: Make, tmp_path: Path) -> None:
    tables = make().read()
    write_tables(tables, tmp_path / "tables")
    assert read_tables(tmp_path / "tables") == tables
    assert tables.members["profile"].to_pylist() == [{}, {}]


def test_values_thresholds_and_constants(make: Make) -> None:
    source = make("interactions.values={action: {view: seen, buy: bought}}")
    assert source.read().interactions["action"].to_pylist() == ["bought", "seen", "seen"]
    stars = make(
        "interactions.columns.action=stars",
        "interactions.thresholds={action: [{at_least: 0.5, value: disliked}, {at_least: 4, value: liked}]}",
    )
    assert stars.read().interactions["action"].to_pylist() == ["disliked", "liked", "liked"]
    strict = make(
        "interactions.columns.action=stars",
        "interactions.thresholds={action: [{at_least: 3, value: liked}]}",
    )
    _, quarantine = read(strict)
    assert reasons(quarantine) == {
        "interactions interactions.csv line 3": "action (column 'stars') is below the first threshold, 3"
    }


def test_members_have_their_own_table(make: Make) -> None:
    Path("users.csv").write_text("id,age,lang,out\nu1,30,de,no\nu2,,,yes\nu2,31,,no\nu9,1,,1\n")
    source = make(
        "members={files: [users.csv], columns: {member_id: id, locale: lang, opted_out: out}, profile: {age: age}}"
    )
    tables, quarantine = read(source)
    assert tables.members.to_pylist() == [
        {"member_id": "u1", "profile": {"age": "30"}, "locale": "de", "opted_out": False},
        {"member_id": "u2", "profile": {"age": None}, "locale": "en", "opted_out": True},
        {"member_id": "u9", "profile": {"age": "1"}, "locale": "en", "opted_out": True},
    ]
    assert reasons(quarantine) == {"members users.csv line 4": "member_id occurs before; ids must be unique"}


def test_a_member_has_opted_out_if_any_row_says_so(make: Make) -> None:
    Path("users.csv").write_text("id,out\nu1,no\nu2,\nu1,yes\nu2,no\n")
    source = make("members={files: [users.csv], columns: {member_id: id, opted_out: out}}")
    tables, _ = read(source)
    assert tables.members.select(["member_id", "opted_out"]).to_pylist() == [
        {"member_id": "u1", "opted_out": True},
        {"member_id": "u2", "opted_out": False},
    ]


CONNECTIONS = """a,b,since
u1,u2,2024-01-01
u2,u1,2024-01-02
u1,u1,2024-01-01
u1,u9,2024-01-01
u1,u2,2024-01-03
"""


def test_authors_and_connections_are_read(make: Make) -> None:
    Path("follows.csv").write_text(CONNECTIONS)
    Path("users.csv").write_text("id\nu1\nu2\n")
    network = (
        "connections={files: [follows.csv], columns: {member_id: a, other_id: b, timestamp: since}, "
        "constants: {kind: follow}}"
    )
    members = "members={files: [users.csv], columns: {member_id: id}}"
    tables, quarantine = read(make(network, members, "entities.columns.author_id=tags", items="id,name,tags\n3,a,u7\n"))
    assert tables.entities["author_id"].to_pylist() == ["u7"]
    assert tables.connections is not None
    assert tables.connections.select(["member_id", "other_id", "kind"]).to_pylist() == [
        {"member_id": "u1", "other_id": "u2", "kind": "follow"},
        {"member_id": "u2", "other_id": "u1", "kind": "follow"},
    ]
    assert {place: reason for place, reason in reasons(quarantine).items() if "connections" in place} == {
        "connections follows.csv line 4": "other_id is the member itself",
        "connections follows.csv line 5": "other_id is not in the members",
        "connections follows.csv line 6": "member_id, other_id, kind occur before",
    }
    tables, quarantine = read(make(network))  # without a file of members, both tables name them
    assert sorted(tables.members["member_id"].to_pylist()) == ["u1", "u2", "u9"]
    unknown = make(network.replace("kind: follow", "kind: friend"))
    _, quarantine = read(unknown)
    assert "kind is not connection or follow" in reasons(quarantine).values()


BAD = """user,item,event,stars,time
u1,010,view,4,2024-05-01
,3,view,4,2024-05-01
u1,99,view,4,2024-05-01
u1,3,view,4,1714554000
u1,3,view,4
u1,3,view,4,2024-05-03
"""


def test_rows_that_break_the_schema_go_to_the_quarantine(make: Make, tmp_path: Path) -> None:
    source = make(interactions=BAD, items=ITEMS + "3,twice,c\n")
    quarantine = Quarantine(tmp_path / "quarantine")
    tables = source.read_rows(quarantine)
    assert tables.interactions.num_rows == 2
    assert reasons(quarantine) == {
        "interactions interactions.csv line 3": "member_id (column 'user') is absent",
        "interactions interactions.csv line 4": "entity_id is not in the entities",
        "interactions interactions.csv line 5": (
            "timestamp (column 'time') is not an ISO 8601 time such as 2024-05-31T18:30:00Z; it fits seconds: set "
            "time_format"
        ),
        "interactions interactions.csv line 6": "the row has another number of values than the header",
        "entities items.csv line 4": "entity_id occurs before; ids must be unique",
    }
    assert quarantine.rows == {"interactions": 6, "entities": 3}
    with pytest.raises(DataError, match=r"4 of 6 rows of interactions break the schema \(66\.7%\).*max_share is 1\.0%"):
        quarantine.require_share(0.01)
    quarantine.require_share(0.7)
    lines = [json.loads(line) for line in (tmp_path / "quarantine" / "interactions.jsonl").read_text().splitlines()]
    assert len(lines) == 4
    [absent] = [line for line in lines if line["line"] == 3]
    assert absent["file"] == "interactions.csv"
    assert absent["values"] == {"user": "", "item": "3", "event": "view", "time": "2024-05-01"}
    quarantine.add("members", file="a.csv", line=2, reason="r", values={"title": "mail ana@example.com", "n": 1})
    quarantine.add("members", file="a.csv", line=3, reason="r", values="1,mail ana@example.com")
    quarantine.flush()
    assert "example.com" not in (tmp_path / "quarantine" / "members.jsonl").read_text()


def test_a_wrong_unit_names_the_unit_that_fits(make: Make) -> None:
    rows = "user,item,event,stars,time\n" + "u1,3,view,1,1714554000000\n" * 5
    quarantine = Quarantine()
    with pytest.raises(DataError, match="5 of 5 rows .*it fits milliseconds: set time_format"):
        make("interactions.time_format=seconds", interactions=rows).read_rows(quarantine)
    assert make("interactions.time_format=milliseconds", interactions=rows).read().interactions.num_rows == 5


def test_all_problems_of_the_columns_are_found_at_once(make: Make) -> None:
    source = make(
        "interactions.columns.timestamp=tiem", "entities.fields.title=titel", "entities.fields.brand=brand",
        "interactions.files=[interactions.csv, more.csv]",
    )  # fmt: skip
    messages = [problem.message for problem in source.find_problems()]
    assert messages == [
        f"more.csv is not a file (working folder: {Path.cwd()}). Correct the path in the recipe.",
        "entities.title: column 'titel' is missing. Known are 'id', 'name', 'tags'.",
        "entities.brand: column 'brand' is missing. Known are 'id', 'name', 'tags'.",
    ]
    with pytest.raises(DataError, match=r"is not a file.*2 more; `brew360 data validate` lists them"):
        source.read_rows(Quarantine())
    [problem] = make("interactions.columns.timestamp=tiem").find_problems()
    assert problem.message == "interactions.timestamp: column 'tiem' is missing. Did you mean 'time'?"
    [problem] = make(interactions="user;item;event;time\n1;2;3;4\n").find_problems()
    assert problem.message == "the header is one column, 'user;item;event;time'. Set delimiter to ';'."
    assert not make("interactions.delimiter=;", interactions="user;item;event;time\n1;3;x;2024-05-01\n").find_problems()
    [problem] = make(interactions="user,user,item\n1,2,3\n").find_problems()
    assert "columns 'user' occur more than once in the header" in problem.message


def test_parquet_and_json_with_nested_structs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table = pa.table(
        {
            "who": pa.array([7, 8], pa.int64()),
            "item": [{"id": 3.0, "title": "x"}, {"id": 10.0, "title": "y"}],
            "at": pa.array([1_714_554_000_000_000_000] * 2, pa.timestamp("ns", "UTC")),
        }
    )
    pq.write_table(table, "rows.parquet")
    Path("items.jsonl").write_text('{"id": 3, "info": {"name": "a", "tags": ["p", null, "q"]}}\n{"id": 10}\n')
    config = load_config(
        TablesConfig,
        {
            "interactions": {
                "files": ["rows.parquet"],
                "columns": {"member_id": "who", "entity_id": "item.id", "timestamp": "at"},
                "constants": {"surface": "shop", "action": "view"},
            },
            "entities": CONFIG["entities"]
            | {"files": ["items.jsonl"], "fields": {"title": "info.name", "tags": "info.tags"}},
        },
    )
    source = OwnTables(config=config)
    tables = source.read()
    assert tables.members["member_id"].to_pylist() == ["7", "8"]
    assert tables.interactions["entity_id"].to_pylist() == ["3", "10"]
    assert tables.entities["fields"].to_pylist() == [{"title": "a", "tags": "p, q"}, {"title": None, "tags": None}]
    wrong = OwnTables(config=replace(source.config, entities=replace(source.config.entities, fields={"title": "info"})))
    [problem] = wrong.find_problems()
    assert "has no text form. Name a column inside it: info.name, info.tags" in problem.message


def test_rows_of_files_of_every_type_go_to_the_quarantine_with_their_line(make: Make) -> None:
    """One good row, and rows whose time, id or field has no meaning: in JSON lines and in Parquet."""
    make()
    good = {"user": "u1", "item": "3", "event": "view", "time": "2024-05-01"}
    rows = [
        good, good | {"time": "9999-12-31"}, good | {"user": "u" * 201}, good | {"event": {"a": 1}},
        good | {"event": None}, good | {"time": 1e999}, good | {"event": [["view"]]},
    ]  # fmt: skip
    Path("interactions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = load_config(TablesConfig, CONFIG, overrides=["interactions.files=[interactions.jsonl]"])
    tables, quarantine = read(OwnTables(config=config))
    assert tables.interactions.num_rows == 1
    assert sorted(int(place.split()[-1]) for place in reasons(quarantine)) == [2, 3, 4, 5, 6, 7]
    times = pa.array([1_714_554_000_000, 881_250_949_000_000, None, -(2**60)], pa.timestamp("ms"))
    table = pa.table({"user": ["u1"] * 4, "item": ["3"] * 4, "event": ["view"] * 4, "time": times})
    pq.write_table(table, "interactions.parquet")
    config = load_config(TablesConfig, CONFIG, overrides=["interactions.files=[interactions.parquet]"])
    tables, quarantine = read(OwnTables(config=config))
    assert tables.interactions.num_rows == 1
    assert sorted(int(place.split()[-1]) for place in reasons(quarantine)) == [2, 3, 4]


def test_a_type_that_changes_within_a_file_is_a_fault_of_its_rows(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("brew_data.sources.formats.json_lines.ROWS_PER_BATCH", 1)
    make()
    rows = [
        {"id": "3", "name": "a"}, {"id": "4", "name": {"en": "b"}}, {"id": {"n": 5}, "name": "c"},
        {"id": "010", "tags": None},
    ]  # fmt: skip
    Path("items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    overrides = ["entities.files=[items.jsonl]", "entities.fields={title: name}"]
    tables, quarantine = read(OwnTables(config=load_config(TablesConfig, CONFIG, overrides=overrides)))
    assert tables.entities["entity_id"].to_pylist() == ["3", "010"]
    assert reasons(quarantine) == {
        "entities items.jsonl line 2": "title (column 'name') is of type struct<en: string>, which has no text form",
        "entities items.jsonl line 3": "entity_id (column 'id') is of type struct<n: int64>, which has no text form",
    }


def test_utf_16_without_a_byte_order_mark_is_recognized(make: Make) -> None:
    source = make()
    Path("items.csv").write_bytes(ITEMS.encode("utf-16-le"))
    [problem] = source.find_problems()
    assert "Set encoding to utf-16-le" in problem.message
    source = OwnTables(config=load_config(TablesConfig, CONFIG, overrides=["entities.encoding=utf-16-le"]))
    assert source.read().entities["entity_id"].to_pylist() == ["010", "3"]


def test_entities_that_were_left_out_are_named_when_no_interaction_is_left(make: Make) -> None:
    source = make()
    Path("items.csv").write_bytes("id,name,tags\n3,Café,\n010,é,\nx,y,z\n".encode("latin-1"))
    with pytest.raises(
        DataError, match=r"no interaction is left.* 2 rows of entities .*not utf-8 text.*items\.csv line 2"
    ):
        source.read_rows(Quarantine())


@pytest.mark.parametrize("items", ["", "id,name,tags\n", "\n\n"])
def test_files_without_rows_are_refused(make: Make, items: str) -> None:
    with pytest.raises(DataError, match=r"items\.csv is empty|the files of entities have no rows: items\.csv"):
        make(items=items).read_rows(Quarantine())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("interactions.time_format=minutes", "time_format is 'minutes', but must be iso8601, seconds"),
        *(
            (f"interactions.encoding={name}", f"encoding '{name}' is unknown")
            for name in ("klingon", "base64", "rot13", "undefined")
        ),
        ('interactions.delimiter="\\n"', "delimiter and quote must differ, and have no line break"),
        ("interactions.delimiter='\"'", "delimiter and quote must differ, and have no line break"),
        ("interactions.format=xml", "^interactions.format is 'xml'; give one of auto, csv"),
        ("interactions.files=[]", r"^interactions\.files is empty"),
        ("interactions.columns.surface=event", "surface is in columns and in constants"),
        ("interactions.columns.colour=x", "columns or constants name 'colour', which is unknown"),
        ("interactions.values={surface: {a: b}}", "values name 'surface', which is not in columns"),
        (
            "interactions.thresholds={action: [{at_least: 4, value: a}, {at_least: 1, value: b}]}",
            "at_least must rise",
        ),
        (
            "interactions.thresholds={action: [{at_least: .inf, value: a}]}",
            "thresholds.action\\[0\\].at_least is inf; give a finite number",
        ),
    ],
)
def test_a_mapping_that_cannot_work_is_refused(make: Make, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(override)


def test_a_column_that_is_mapped_to_nothing_is_refused() -> None:
    config = {**CONFIG, "interactions": {**CONFIG["interactions"], "constants": {}}}
    with pytest.raises(ConfigError, match=r"surface is mapped to nothing\. Add it to columns, as surface: NAME"):
        load_config(TablesConfig, config)


FIELD = st.sampled_from(["u1", "u2", "", "nan", "a,b", 'q"q'])
TIME = st.sampled_from(["2024-05-01", "2024-13-01", "", "5", "2024-05-01T10:00:00+02:00"])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(FIELD, st.sampled_from(["010", "3", "x", ""]), FIELD, TIME), min_size=1, max_size=8))
def test_every_row_is_in_the_tables_or_in_the_quarantine(make: Make, rows: list[tuple[str, str, str, str]]) -> None:
    import csv
    import io

    text = io.StringIO()
    csv.writer(text).writerows([("user", "item", "event", "time"), *rows])
    source = make(interactions=text.getvalue())
    quarantine = Quarantine()
    absent = ("", "nan")
    good = [
        row
        for row in rows
        if row[0] not in absent and row[1] in ("010", "3") and row[2] not in absent and row[3][:7] == "2024-05"
    ]
    try:
        tables = source.read_rows(quarantine)
    except DataError:
        assert not good
        return
    assert tables.interactions.num_rows == len(good)
    assert quarantine.total("interactions") == len(rows) - len(good)
    kept = tables.interactions.select(["member_id", "entity_id", "action"]).to_pylist()
    assert sorted(tuple(row.values()) for row in kept) == sorted(row[:3] for row in good)
