"""Files are read in batches, and the line of every row and of every fault is right."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brew_data.sources.formats.base import BadRow, InputFile
from brew_data.sources.formats.delimited import DelimitedFile, TextFormat
from brew_data.sources.formats.json_lines import JsonLinesFile
from brew_data.sources.formats.parquet import ParquetFile
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


@pytest.mark.parametrize(
    ("start", "remedy"),
    [
        (gzip.compress(b"id\n1\n", mtime=0), "the file is compressed by gzip; name it .gz"),
        (b"PK\x03\x04\x14\xff\n", "the file is a ZIP archive or an Excel sheet"),
        (b"PAR1\xff\n", "the file is Parquet; set `format` to parquet"),
        ("id\n1\n".encode("utf-16-be"), "e.g. latin-1"),
    ],
)
def test_another_kind_of_file_is_refused_with_the_remedy(tmp_path: Path, start: bytes, remedy: str) -> None:
    data = start if b"\xff" in start or start[:1] == b"\x1f" else b"\xff" + start
    with pytest.raises(DataError, match=rf"a\.csv line 1: .*{remedy}"):
        delimited(tmp_path / "a.csv", data).columns()
    (tmp_path / "a.jsonl").write_bytes(data)
    with pytest.raises(DataError, match=rf"a\.jsonl has no line with a JSON object; line 1: .*{remedy}"):
        JsonLinesFile(find_files([str(tmp_path / "a.jsonl")])[0]).columns()


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_as_on_any_system(tmp_path: Path, end: str) -> None:
    data = f'id,text{end}1,"two{end}lines"{end}2,b{end}3{end}4,d'.encode()
    rows, lines, bad = read(delimited(tmp_path / "a.csv", data))
    assert [(row["id"], row["text"]) for row in rows] == [("1", f"two{end}lines"), ("2", "b"), ("4", "d")]
    assert lines == [2, 4, 6]
    assert [row.line for row in bad] == [5]
    (tmp_path / "a.jsonl").write_bytes(f'{{"id": 1}}{end}{end}x{end}{{"id": 2}}'.encode())
    rows, lines, bad = read(JsonLinesFile(find_files([str(tmp_path / "a.jsonl")])[0]))
    assert ([row["id"] for row in rows], lines, [row.line for row in bad]) == ([1, 2], [1, 4], [3])


@pytest.mark.parametrize("header", ["\n\nid,text\n", '"id","te\nxt"\n', '\ufeff"id","te\r\nxt"\r\n', '"i\nd",text\n'])
def test_a_header_of_several_lines_is_no_row(tmp_path: Path, header: str) -> None:
    file = delimited(tmp_path / "a.csv", f"{header}1,a\n2,b\n".encode())
    rows, lines, bad = read(file)
    assert [list(row.values()) for row in rows] == [["1", "a"], ["2", "b"]]
    first = header.count("\n") + 1
    assert (lines, bad) == ([first, first + 1], [])
    assert read(delimited(tmp_path / "b.csv", header.encode()))[0] == []


def test_unusual_characters_of_a_text_are_kept(tmp_path: Path) -> None:
    texts = [
        "a\x00b",
        "\u202eabc\u202c",
        "\u200b",
        "e\u0301",
        "x" * 5_000_000,
        "a\u2028b",
        "a\x0cb",
        "\U0001f469\u200d\u2695",
    ]
    rows, lines, bad = read(delimited(tmp_path / "a.csv", b"id\n" + "\n".join(texts).encode()))
    assert [row["id"] for row in rows] == texts
    assert (lines, bad) == (list(range(2, len(texts) + 2)), [])


@pytest.mark.parametrize("cut", [10, -10])
def test_a_compressed_file_that_is_cut_short_is_refused_by_name(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"id,text\n" + b"1,a\n" * 50_000)[:cut])
    with pytest.raises(DataError, match=r"a\.csv\.gz cannot be read to its end"):
        read(DelimitedFile(find_files([str(path)])[0]))
    path.write_bytes(b"id,text\n1,a\n")
    with pytest.raises(DataError, match=r"not compressed as its ending says"):
        read(DelimitedFile(find_files([str(path)])[0]))


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


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        ('{"id": 1, "id": 2}', "the key 'id' occurs more than once"),
        ('{"id": 1, "item": {"a": 1, "b": 2, "a": 3}}', "the key 'a' occurs more than once"),
        ('{"id": "\\ud83d"}', "half of a surrogate pair is not text"),
        ('{"id": ' + "9" * 5_000 + "}", "4300 digits"),
        ("[" * 100_000, "recursion"),
        ('{"id": 1}{"id": 2}', "Extra data"),
    ],
)
def test_json_that_readers_understand_differently_is_refused_by_line(tmp_path: Path, line: str, detail: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"id": 1}}\n{line}\n{{"id": "\\ud83d\\ude00"}}\n')
    rows, _, bad = read(JsonLinesFile(find_files([str(path)])[0]), ["id"])
    assert len(rows) == 2
    assert [(row.line, row.reason) for row in bad] == [(2, "the line is not valid JSON")]
    assert detail in bad[0].detail


def test_values_of_several_types_are_written_by_the_rule_of_prompts(tmp_path: Path) -> None:
    values = [1, 2.0, 2.5, True, None, "  a  b", ["x", 3.0, None], [], 10**30, {"a": 1}, [["x"]], [{"a": 1}]]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"id": value}) for value in values) + '\n{"id": 1e999}\n')
    [batch] = JsonLinesFile(find_files([str(path)])[0]).batches(["id"])
    written = ["1", "2", "2.5", "yes", None, "  a  b", "x, 3", None, "1" + "0" * 30, None, None, None, None]
    assert batch.table["id"].to_pylist() == written
    assert sorted(batch.faults) == [9, 10, 11, 12]
    assert batch.faults[9] == ("column 'id' has a value without a text form", "{'a': 1}")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty. A file needs a JSON object on each line"),
        (b"\n \n", "is empty"),
        (b'[\n{"id":\n1},\n]\n', "has no line with a JSON object; line 1: the line is not valid JSON"),
    ],
)
def test_a_json_file_without_rows_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(DataError, match=message):
        JsonLinesFile(find_files([str(tmp_path / "a.json")])[0]).columns()


def test_text_of_a_parquet_file_that_is_not_utf_8_is_a_fault(tmp_path: Path) -> None:
    raw = pa.array([b"caf\xe9", "café".encode(), None])
    for kind in (pa.string(), pa.large_string()):
        text = pa.Array.from_buffers(pa.string(), 3, raw.buffers()).cast(kind, safe=False)
        path = tmp_path / "a.parquet"
        pq.write_table(pa.table({"text": text}), path)
        [batch] = ParquetFile(find_files([str(path)])[0]).batches(["text"])
        assert batch.table["text"].to_pylist() == [None, "café", None]
        assert batch.faults == {0: ("column 'text' has text that is not UTF-8", repr(b"caf\xe9"))}


def test_a_damaged_page_of_a_parquet_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"n": list(range(10_000))}), path, compression="gzip", use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[100:400] = bytes(300)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.parquet cannot be read as Parquet"):
        read(ParquetFile(find_files([str(path)])[0]))


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
    assert [found.name for found in find_files(["b.csv", "*.csv", str(tmp_path / "a.csv")])] == ["b.csv", "a.csv"]
    (tmp_path / "a[1].csv").write_text("x")
    assert [found.name for found in find_files(["a[1].csv"])] == ["a[1].csv"]  # a name, although it is a glob too


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
