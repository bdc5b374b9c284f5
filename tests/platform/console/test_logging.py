"""Log files have everything, one JSON object per line; the console has only our warnings; ids are hashed."""

import io
import json
import logging
import os
import subprocess
import sys
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brew_platform.console.logging import JsonFormatter, PrivateId, open_log, open_process_log
from brew_platform.errors import DataError, UserError

from ...areas import AREAS


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_file_has_everything_and_the_console_only_our_warnings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noisy = logging.getLogger("noisy.library")
    noisy.addHandler(handler := logging.StreamHandler())  # as ray, vllm and transformers do
    noisy.propagate = False
    with open_log(tmp_path / "logs/run.log"):
        noisy.warning("loud")
        logging.getLogger("brew_train.loop").info("step 1")
        logging.getLogger("brew_train.loop").warning("skipped a row")
        logging.getLogger("other").error("theirs")
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            warnings.warn("deprecated", UserWarning, stacklevel=1)
    assert capsys.readouterr().err == "WARNING: skipped a row\n"
    records = read(tmp_path / "logs/run.log")
    assert [(record["level"], record["logger"], record["message"]) for record in records[:4]] == [
        ("WARNING", "noisy.library", "loud"),
        ("INFO", "brew_train.loop", "step 1"),
        ("WARNING", "brew_train.loop", "skipped a row"),
        ("ERROR", "other", "theirs"),
    ]
    assert "UserWarning: deprecated" in records[4]["message"]
    assert {record["process"] for record in records} == {"command"}
    assert noisy.handlers == [handler]
    assert not noisy.propagate
    noisy.removeHandler(handler)


def test_closing_restores_level_and_handlers(tmp_path: Path) -> None:
    root = logging.getLogger()
    before = (root.level, list(root.handlers), warnings.showwarning)
    log = open_log(tmp_path / "run.log", level=logging.DEBUG)
    assert root.level == logging.DEBUG
    log.close()
    assert (root.level, list(root.handlers), warnings.showwarning) == before


def test_a_library_that_sets_up_its_log_later_is_quieted_by_another_call(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    late = logging.getLogger("late.library")
    file = logging.StreamHandler(io.StringIO())  # not a console: stays
    with open_log(tmp_path / "run.log") as log:
        late.addHandler(logging.StreamHandler())
        late.addHandler(file)
        log.quiet()
        assert late.handlers == [file]
        late.warning("loud")
    assert capsys.readouterr().err == ""
    assert [(record["logger"], record["message"]) for record in read(log.path)] == [("late.library", "loud")]
    late.handlers.clear()


def test_a_log_that_cannot_be_written_says_where_and_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write the log file .*/file/run\.log: .*\. Choose a folder that"):
        open_log(tmp_path / "file/run.log")


def test_a_process_writes_its_log_without_any_other_setup(tmp_path: Path) -> None:
    """A new interpreter, as a replica of Ray Serve is: nothing else has set levels or handlers."""
    program = f"""
import logging
from pathlib import Path
from brew_platform.console.logging import open_process_log
open_process_log(Path({str(tmp_path / "serve" / "gateway.log")!r}), process="gateway", private=True)
logging.getLogger("brew_serve.access").info("request", extra={{"fields": {{"route": "/v1/rank", "status": 200}}}})
logging.getLogger("brew_train.loop").info("step")
logging.getLogger("library").info("quiet")
logging.getLogger("library").warning("loud")
"""
    finished = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
    )
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, b"", b"")
    records = read(tmp_path / "serve" / "gateway.log")
    assert [record["message"] for record in records] == ["request", "step", "loud"]
    access = records[0]
    assert (access["process"], access["level"], access["route"], access["status"]) == (
        "gateway",
        "INFO",
        "/v1/rank",
        200,
    )
    assert abs((datetime.fromisoformat(access["time"]) - datetime.now(UTC)).total_seconds()) < 60


def test_a_process_in_a_container_writes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    with open_process_log(None, process="jobs"):
        logging.getLogger("brew_cluster").info("started")
    logging.getLogger("brew_cluster").warning("after")
    [line] = capsys.readouterr().out.splitlines()
    assert (json.loads(line)["process"], json.loads(line)["message"]) == ("jobs", "started")


def record(message: Any, *arguments: Any, error: BaseException | None = None, **fields: Any) -> logging.LogRecord:
    exc_info = None if error is None else (type(error), error, error.__traceback__)
    entry = logging.LogRecord("brew_serve", logging.WARNING, "file.py", 1, message, arguments, exc_info)
    entry.fields = fields
    return entry


texts = st.text() | st.sampled_from(["a\nb", "\r\n", "\x1b[31m", "\u2028", '"}', "%s", "\ud800"])


@given(texts, texts)
def test_a_record_is_one_line_of_ascii_whatever_it_holds(message: str, value: str) -> None:
    line = JsonFormatter("gateway").format(record("%s", message, value=value, other=object()))
    assert line.isascii()
    assert line.isprintable()
    parsed = json.loads(line)
    assert (parsed["message"], parsed["value"]) == (message, value)


def test_placeholders_without_arguments_do_not_lose_the_record() -> None:
    assert json.loads(JsonFormatter("x").format(record("%d of %d", "many")))["message"] == "%d of %d"
    assert json.loads(JsonFormatter("x").format(record("100% of %s")))["message"] == "100% of %s"


def test_ids_are_written_as_hashes_under_a_key() -> None:
    first, other = JsonFormatter("x", key=b"1"), JsonFormatter("x", key=b"2")
    line = first.format(record("work for %s", PrivateId("ada"), member_id=PrivateId("ada")))
    assert "ada" not in line
    hashed = json.loads(line)["member_id"]
    assert json.loads(line)["message"] == f"work for {hashed}"
    assert len(hashed) == 16
    same = json.loads(first.format(record("again", member_id=PrivateId("ada"))))
    assert same["member_id"] == hashed
    assert json.loads(other.format(record("x", member_id=PrivateId("ada"))))["member_id"] != hashed
    assert json.loads(first.format(record("x", member_id=PrivateId("bob"))))["member_id"] != hashed
    assert str(PrivateId("ada")) == repr(PrivateId("ada")) == "<id>"
    assert PrivateId("\ud800").hashed(b"1")


def fail(error: Exception, cause: Exception) -> Exception:
    try:
        try:
            raise cause
        except Exception as caught:
            raise error from caught
    except Exception as caught:
        return caught


def test_exceptions_have_frames_and_causes_and_private_logs_leave_out_their_text() -> None:
    error = fail(DataError("a row is broken. Fix it."), KeyError("ada@example.com"))
    whole = json.loads(JsonFormatter("x").format(record("failed", error=error)))["exception"]
    assert [part["type"] for part in whole] == ["brew_platform.errors.DataError", "builtins.KeyError"]
    assert whole[1]["message"] == "'ada@example.com'"
    assert whole[0]["frames"][-1].endswith(" fail")
    line = JsonFormatter("x", private=True).format(record("failed", error=error))
    assert "ada" not in line
    assert json.loads(line)["exception"][0]["message"] == "a row is broken. Fix it."


@pytest.mark.parametrize("package", AREAS.values())
def test_the_log_of_a_process_has_the_records_of_every_package(package: str, tmp_path: Path) -> None:
    with open_process_log(tmp_path / "a.log", process="replica"):
        logging.getLogger(f"{package}.module").info("step")
    assert [entry["message"] for entry in read(tmp_path / "a.log")] == ["step"]


def test_closing_a_process_log_restores_levels(tmp_path: Path) -> None:
    before = (logging.getLogger("brew_serve").level, list(logging.getLogger().handlers))
    with open_process_log(tmp_path / "x.log", process="x"):
        assert logging.getLogger("brew_serve").level == logging.INFO
    assert (logging.getLogger("brew_serve").level, list(logging.getLogger().handlers)) == before
