"""The log of answers: whole files with the rows that the evaluation joins, and requests that never wait for it."""

import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from brew_data.privacy.pseudonyms import PseudonymConfig
from brew_data.prompts.history import HistoryPolicy
from brew_data.prompts.tasks import TaskSpec
from brew_eval.online import ANSWERS
from brew_platform.errors import ConfigError, StorageError, UserError
from brew_platform.storage.local import LocalStore
from brew_serve.metrics import Meters
from brew_serve.ranking import answer_log
from brew_serve.ranking.answer_log import LOGGED_ANSWERS, AnswerLog, Origin
from brew_serve.ranking.answer_log_config import AnswerLogConfig
from brew_serve.ranking.scoring import RankedCandidate, Ranking
from brew_serve.ranking.service import RankingService
from brew_serve.schemas.rank import RankRequest
from brew_serve.version import LoadedVersion

TASK = TaskSpec(
    name="job_apply",
    surface="jobs",
    instruction="Predict.",
    positive=["apply"],
    history=HistoryPolicy(surfaces=["jobs"]),
)
SECRET = "0123456789abcdef" * 2


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> PseudonymConfig:
    monkeypatch.setenv("ANSWERS_KEY", SECRET)
    return PseudonymConfig(env="ANSWERS_KEY")


@pytest.fixture
def settings(key: PseudonymConfig, tmp_path: Path) -> dict[str, Any]:
    return {"url": str(tmp_path / "answers"), "key": key, "file_seconds": 3600.0}


def ranking(ids: str = "ab", unscored: str = "") -> Ranking:
    return Ranking(
        candidates=[RankedCandidate(id=id_, score=0.7, probabilities={"apply": 0.7, "skip": 0.3}) for id_ in ids],
        unscored=list(unscored),
        prefixes=[],
        prompt_tokens=1,
        candidate_cuts={},
    )


def add(log: AnswerLog, request_id: str, answer: Ranking | None = None, **request: Any) -> None:
    body = {"task": "job_apply", "member_id": "ada", "candidates": ["a", "b"], **request}
    if "member" in request:
        del body["member_id"]
    origin = Origin(request_id=request_id, role="production", received=1.5)
    parsed = RankRequest.model_validate(body)
    log.add(origin, parsed, TASK, answer or ranking(), history=8, locale="de")


def rows(folder: Path) -> list[dict[str, Any]]:
    tables = [pq.read_table(path) for path in sorted(folder.glob("*/*.parquet"))]
    found: list[dict[str, Any]] = pa.concat_tables(tables).to_pylist() if tables else []
    return found


def counted(meters: Meters, outcome: str) -> float:
    line = f'brew_answer_rows_total{{outcome="{outcome}"}} '
    return next(float(text.split()[-1]) for text in meters.text().decode().splitlines() if text.startswith(line))


def test_a_row_has_the_columns_of_the_evaluation_and_hashes_for_ids(settings: dict[str, Any], tmp_path: Path) -> None:
    meters = Meters()
    log = AnswerLog(AnswerLogConfig(**settings), version=7, meters=meters)
    add(log, "r1", ranking("ab", "c"), top_k=1, candidates=["a", "b", "c"])
    add(log, "r2", ranking("a"), member={"profile": {"title": "secret person"}}, candidates=["a"])
    log.close()
    assert set(ANSWERS) <= set(LOGGED_ANSWERS.names)
    found = rows(tmp_path / "answers")
    assert [(row["request_id"], row["score"], row["returned"]) for row in found] == [
        ("r1", 0.7, True),
        ("r1", 0.7, False),
        ("r1", None, False),
        ("r2", 0.7, True),
    ]
    hashes = settings["key"].open()
    expected = {"version": 7, "role": "production", "task": "job_apply", "surface": "jobs", "is_trained": True}
    expected |= {"history": 8, "locale": "de", "member": hashes.of("ada"), "entity_id": hashes.of_entity("a")}
    assert found[0].items() >= expected.items()
    assert found[0]["probabilities"] == [0.7, 0.3]
    assert found[0]["time"].timestamp() == 1.5
    (path,) = (tmp_path / "answers").glob("*/*.parquet")
    data = path.read_bytes()
    assert b"ada" not in data
    assert b"secret person" not in data
    assert counted(meters, "written") == 4


def test_anonymous_requests_have_a_member_each_and_inline_ones_one_for_each_profile(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    log = AnswerLog(AnswerLogConfig(**settings), version=7, meters=Meters())
    profile, other = {"profile": {"title": "nurse", "city": "b"}}, {"profile": {"city": "b", "title": "nurse"}}
    for name, member in [("n1", profile), ("n2", other), ("x1", {}), ("x2", {})]:
        add(log, name, member=member)
    add(log, "k1", member={}, routing_key="ada")
    log.close()
    members = {row["request_id"]: row["member"] for row in rows(tmp_path / "answers")}
    assert members["n1"] == members["n2"]
    assert len(set(members.values())) == 4
    assert members["k1"] == settings["key"].open().of("ada")


def test_files_are_rotated_by_size_and_by_time(settings: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "answers"
    cases: list[tuple[dict[str, Any], int]] = [({"file_rows": 4, "waiting_rows": 8}, 2), ({"file_seconds": 0.01}, 1)]
    for changes, requests in cases:
        meters = Meters()
        log = AnswerLog(AnswerLogConfig(**settings | changes), version=7, meters=meters)
        for number in range(requests):
            add(log, f"r{number}")
        while counted(meters, "written") < 2 * requests:
            threading.Event().wait(0.002)
        log.close()
    assert sorted(pq.read_metadata(path).num_rows for path in folder.glob("*/*.parquet")) == [2, 4]


def test_the_same_requests_are_sampled_in_every_version(settings: dict[str, Any], tmp_path: Path) -> None:
    for version in (7, 8):
        log = AnswerLog(AnswerLogConfig(**settings | {"share": 0.3}), version=version, meters=Meters())
        for number in range(100):
            add(log, f"r{number}")
        log.close()
    by_version: dict[int, set[str]] = {7: set(), 8: set()}
    for row in rows(tmp_path / "answers"):
        by_version[row["version"]].add(row["request_id"])
    assert by_version[7] == by_version[8]
    assert 15 < len(by_version[7]) < 45


class Failing(LocalStore):
    """A store that fails, after it has created the object, until `works` is set."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.works, self.tried = threading.Event(), threading.Event()

    def put_if_absent(self, key: str, data: bytes) -> bool:
        is_new = super().put_if_absent(key, data)
        self.tried.set()
        if not self.works.is_set():
            raise StorageError("the store is down.")
        return is_new


def test_a_store_that_fails_delays_no_request_and_repeats_no_row(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_log, "_RETRY_SECONDS", 0.01)
    store, meters = Failing(tmp_path / "answers"), Meters()
    config = AnswerLogConfig(**settings | {"file_rows": 2, "waiting_rows": 6})
    log = AnswerLog(config, version=7, meters=meters, open=lambda url: store)
    for number in range(5):
        add(log, f"r{number}")
    assert store.tried.wait(10)
    assert counted(meters, "dropped") == 4, "those that exceed waiting_rows"
    store.works.set()
    log.close()
    add(log, "late")
    assert sorted(row["request_id"] for row in rows(tmp_path / "answers")) == ["r0", "r0", "r1", "r1", "r2", "r2"]
    assert (counted(meters, "written"), counted(meters, "dropped")) == (6, 6)


def test_a_log_that_closes_gives_up_a_store_that_is_down(settings: dict[str, Any], tmp_path: Path) -> None:
    def down(url: str) -> LocalStore:
        raise StorageError(f"{url} is down.")

    meters = Meters()
    log = AnswerLog(AnswerLogConfig(**settings), version=7, meters=meters, open=down)
    add(log, "r1")
    log.close()
    assert counted(meters, "dropped") == 2


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"url": "ftp://host"}, "url of the answer log is 'ftp://host'; give a folder"),
        ({"url": " "}, "url of the answer log is ' '"),
        ({"share": 0.0}, "share of the answer log is 0"),
        ({"waiting_rows": 5}, r"waiting_rows is 5, which is less than file_rows \(50000\)"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        AnswerLogConfig(**settings | changes)


def test_a_missing_key_is_reported_before_the_first_request(
    version: LoadedVersion, table_engine: Any, settings: dict[str, Any]
) -> None:
    config = AnswerLogConfig(**settings | {"key": PseudonymConfig(env="NO_SUCH_KEY")})
    with pytest.raises(UserError, match="NO_SUCH_KEY contains no key"):
        RankingService(3, version, table_engine, None, answer_log=config)
