"""The keys and the records of steps."""

from pathlib import Path

from brew_cluster.releases.steps import StepRecord, keep_record, read_record, step_key


def test_keys_and_records_have_the_bytes_of_earlier_releases(tmp_path: Path) -> None:
    """Long runs continue with records that an earlier release wrote."""
    key = step_key(["/bin/brew360", "train", "a.yaml", "run=runs/a"], ["ab" * 32], ["cd" * 32])
    assert key == "a17585e0357cf5fd6b375280d7019669c33dc6236548c4caa1c24589defe6c8b"
    path = tmp_path / "steps" / "train.json"
    record, code = keep_record(path, key, lambda: 3)
    assert code == 3
    assert path.read_text() == (
        f'{{"key": "{key}", "finished": false, "seconds": {record.seconds}, "peak_bytes": {record.peak_bytes}}}\n'
    )


def test_an_attempt_adds_to_the_time_of_those_before(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"key": "k", "finished": false, "seconds": 5.0, "peak_bytes": 9}')
    record, _ = keep_record(path, "k", lambda: 0)
    assert record.finished
    assert record.seconds >= 5.0
    assert read_record(path) == record


def test_a_damaged_record_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    assert read_record(tmp_path / "a.json") is None
    assert read_record(tmp_path / "b.json") is None
    assert StepRecord(key="k", finished=True, seconds=1.0, peak_bytes=1)
