"""Files are read in batches, and the line of every row and of every fault is right."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brew_data.sources.file_formats import BadRow, DelimitedFile, InputFile, JsonLinesFile, ParquetFile, TextFormat
from brew_data.sources.locations import find_files
from brew_platform.errors import DataError, UserError


def delimited(path: Path, data: bytes, **text_format: object) -> DelimitedFile:
    path.write_bytes(data)
    return DelimitedFile(find_files([str(path)])[0], TextFormat(**text_format))  # type: ignore[arg-type]


def read(file: InputFile, columns: list[str] | None = None) -> tuple[list[dict], list[int], list[BadRow]]:
    """All rows, their lines, and the rows that cannot be parsed."""
    rows: list[dict] = []
    lines: list[int] = []
    bad: list[BadRow] = []
    for batch in file.batches(columns or file.columns()):
        assert batch.first == len(rows)
        rows += batch.table.to_pylist()
        lines += file.lines(range(batch.first, batch.first + batch.table.num_rows))
        bad += batch.bad
    return rows, lines, bad


def test_values_keep_their_written_form(tmp_path: Path) -> None:
    rows, lines, bad = read(delimited(tmp_path / "a.csv", b"id,n\n010,3.0\n1e5,yes\n"))
    assert rows == [{"id": "010", "n": "3.0"}, {"id": "1e5", "n": "yes"}]
    assert (lines, bad) == ([2, 3], [])


def test_lines_are_right_with_quoted_line_breaks_and_empty_lines(tmp_path: Path) -> None:
    rows, lines, _ = read(delimited(tmp_path / "a.csv", b'id,text\n1,"two\nlines"\n\n2,b\r\n'))
    assert [row["text"] for row in rows] == ["two\nlines", "b"]
    assert lines == [2, 5]


def test_rows_that_cannot_be_parsed_are_reported_by_line(tmp_path: Path) -> None:
    data = b'id,text\n1,"a\nb"\n2,caf\xe9\n3\n4,d,e\n5,f\n'
    rows, lines, bad = read(delimited(tmp_path / "a.csv", data))
    assert [row["id"] for row in rows] == ["1", "5"]
    assert lines == [2, 7]
    assert [(row.line, row.detail) for row in bad] == [
        (4, "byte 0xe9 at position 5"), (5, "1 instead of 2"), (6, "3 instead of 2"),
    ]  # fmt: skip
    assert "set `encoding`" in bad[0].reason


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8", "utf-16", "utf-8-sig", "cp1252"])
def test_a_declared_encoding_is_decoded(tmp_path: Path, encoding: str) -> None:
    data = "id,text\n1,café\n".encode(encoding)
    declared = "utf-8" if encoding == "utf-8-sig" else encoding
    assert read(delimited(tmp_path / "a.csv", data, encoding=declared))[0] == [{"id": "1", "text": "café"}]


def test_utf_16_without_a_declaration_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 1: .*set `encoding` to that of the file \(utf-16\)"):
        delimited(tmp_path / "a.csv", "id\n1\n".encode("utf-16")).columns()


def test_an_unclosed_quote_does_not_swallow_the_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 3: a quote opens in this row and is not closed before the end"):
        read(delimited(tmp_path / "a.csv", b'id,text\n1,a\n2,"b\n3,c\n'))
    rows, _, _ = read(delimited(tmp_path / "b.csv", b'id,text\n1,5" disk\n2,b\n'))
    assert [row["text"] for row in rows] == ['5" disk', "b"]


def test_a_delimiter_of_two_characters(tmp_path: Path) -> None:
    file = delimited(tmp_path / "a.dat", b"1::a:b\n2::c\n", delimiter="::", quote="", header=["id", "text"])
    assert read(file)[0] == [{"id": "1", "text": "a:b"}, {"id": "2", "text": "c"}]


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00\x1f\r\ufeff"), min_size=1, max_size=6)


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=8))
def test_any_csv_that_python_writes_is_read_back(tmp_path_factory: pytest.TempPathFactory, rows: list) -> None:
    import csv
    import io

    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([("a", "b"), *rows])
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    try:
        found, lines, bad = read(delimited(path, text.getvalue().encode()))
    except DataError:  # a last value that ends with a line break looks like an unclosed quote
        assert any(value.endswith("\n") for value in rows[-1])
        return
    assert [(row["a"], row["b"]) for row in found] == rows
    assert not bad
    assert lines == sorted(lines)


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    objects = [
        json.dumps({"id": 1, "item": {"title": "a"}}), "", "[1]", "{", json.dumps({"id": "x", "tags": ["p", "q"]}),
    ]  # fmt: skip
    path.write_bytes(gzip.compress("\n".join(objects).encode()))
    file = JsonLinesFile(find_files([str(path)])[0])
    assert file.columns() == ["id", "item", "item.title", "tags"]
    rows, lines, bad = read(file, ["id", "item.title", "tags"])
    assert rows == [{"id": "1", "item.title": "a", "tags": None}, {"id": "x", "item.title": None, "tags": ["p", "q"]}]
    assert lines == [1, 5]
    assert [(row.line, row.reason) for row in bad] == [
        (3, "the line is not a JSON object"), (4, "the line is not valid JSON"),
    ]  # fmt: skip


def test_parquet_with_nested_columns(tmp_path: Path) -> None:
    table = pa.table({"item": [{"title": "a", "n": 1}, None], "a.b": [1, 2]})
    pq.write_table(table, tmp_path / "a.parquet")
    file = ParquetFile(find_files([str(tmp_path / "a.parquet")])[0])
    assert file.columns() == ["item", "item.title", "item.n", "a.b"]
    assert read(file, ["item.title", "a.b"])[0] == [{"item.title": "a", "a.b": 1}, {"item.title": None, "a.b": 2}]
    (tmp_path / "a.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        file.columns()


def test_globs_and_missing_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b.csv", "a.csv", "c.txt"):
        (tmp_path / name).write_text("x")
    assert [Path(found.path).name for found in find_files([str(tmp_path / "*.csv")])] == ["a.csv", "b.csv"]
    monkeypatch.chdir(tmp_path)
    assert [found.name for found in find_files(["*.csv"])] == ["a.csv", "b.csv"]
    with pytest.raises(DataError, match=r"d\*\.csv matches no file"):
        find_files(["d*.csv"])
    with pytest.raises(DataError, match=r"d\.csv is not a file"):
        find_files(["d.csv"])


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("s3://key:secret@bucket/a.csv", "has credentials"),
        ("s3://bucket/a.csv?access_key=x", "has credentials"),
        ("gs://bucket/a.csv", "gs:// is not supported"),
    ],
)
def test_addresses_that_are_refused_do_not_show_the_secret(address: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        find_files([address])
    assert "secret" not in str(raised.value)
