"""`first_cause` finds the BrewError inside other exceptions."""

import pickle
from pathlib import Path

import pytest

from brew_platform.errors import BrewError, DataError, StorageError, UserError, first_cause


def test_the_outermost_error_of_ours_is_found_through_causes_contexts_and_rays_cause() -> None:
    inner = DataError("table members: line 3 cannot be read")
    inner.__cause__ = UserError("line 3 cannot be read")
    middle = RuntimeError("a task failed")
    middle.__cause__ = inner
    outer = ValueError("the job failed")
    outer.cause = middle  # type: ignore[attr-defined]  # as Ray's RayTaskError does
    assert first_cause(outer) is inner
    stranger = ValueError("not ours")
    assert first_cause(stranger) is stranger


def test_an_error_that_was_passed_on_as_text_is_read_back() -> None:
    text = (
        "ray::map() (pid=1)\n  File x\nKeyError: 3\n\nbrew_platform.errors.UserError: choose another port.\n\n"
        "The above exception was the direct cause ...\nray.exceptions.UserCodeException: UDF failed\n"
    )
    found = first_cause(RuntimeError(text))
    assert type(found) is UserError
    assert str(found) == "choose another port."


@pytest.mark.parametrize("kind", [BrewError, UserError, DataError, StorageError])
def test_errors_survive_pickling(kind: type[BrewError]) -> None:
    again = pickle.loads(pickle.dumps(kind("a sentence")))
    assert type(again) is kind
    assert str(again) == "a sentence"


def test_enospc_anywhere_in_a_chain_becomes_one_sentence() -> None:
    with pytest.raises(OSError) as caught:
        Path("/dev/full").write_bytes(b"x" * 10_000)
    wrapped = RuntimeError("a worker died")
    wrapped.__cause__ = caught.value
    assert "no space left on the disk" in str(first_cause(wrapped))
    assert "--run-dir" in str(first_cause(wrapped))
