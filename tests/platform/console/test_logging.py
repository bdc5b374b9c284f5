"""The log file has everything, and the console has only ours."""

import io
import logging
import warnings
from pathlib import Path

import pytest

from brew_platform.console.logging import open_log
from brew_platform.errors import UserError


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
    lines = (tmp_path / "logs/run.log").read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in lines[:4]] == [
        "WARNING noisy.library: loud",
        "INFO brew_train.loop: step 1",
        "WARNING brew_train.loop: skipped a row",
        "ERROR other: theirs",
    ]
    assert "UserWarning: deprecated" in lines[4]
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
    assert "WARNING late.library: loud" in log.path.read_text()
    late.handlers.clear()


def test_a_log_that_cannot_be_written_says_where_and_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write the log file .*/file/run\.log: .*\. Choose a folder that"):
        open_log(tmp_path / "file/run.log")
