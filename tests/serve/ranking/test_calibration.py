"""Calibrated probabilities: of all outcomes of a task, online, nearline and in batches, where the version has a map."""

import asyncio
from dataclasses import replace
from typing import Any

import httpx
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brew_data.prompts.history import HistoryPolicy
from brew_data.prompts.tasks import TaskSpec
from brew_platform.calibration_map import BetaMap, CalibrationMap
from brew_platform.errors import BrewError
from brew_serve.batch.part_scoring import calibrate_results, join_scores
from brew_serve.client import AsyncRankClient
from brew_serve.errors import Uncalibrated
from brew_serve.http.app import create_app
from brew_serve.http.backend import LocalBackend
from brew_serve.ranking.calibration import calibrate
from brew_serve.ranking.scoring import Scored
from brew_serve.ranking.service import RankingService
from brew_serve.version import LoadedVersion

from ..http_client import client_of_app
from ..nearline_service import LocalNearline, rank_job

TASK = TaskSpec(
    name="post_interest",
    surface="feed",
    instruction="Predict.",
    positive=["like", "later"],
    history=HistoryPolicy(surfaces=["feed"]),
)
NAMES = ["like", "later", "hide"]


def map_of(tasks: dict[str, BetaMap], unfitted: dict[str, str] | None = None) -> CalibrationMap:
    return CalibrationMap(
        model="m", tasks=tasks, unfitted=unfitted or {}, fitted_from=0, fitted_until=1, rows_digest="d"
    )


MAP = map_of({"post_interest": BetaMap(a=0.5, b=2.0, c=0.7)}, {"job_apply": "only 3 validation rows have the label"})


def scored(weights: list[float]) -> Scored:
    total = sum(weights)
    probabilities = dict(zip(NAMES, (weight / total for weight in weights), strict=True))
    return Scored(score=min(1.0, probabilities["like"] + probabilities["later"]), probabilities=probabilities)


weight = st.floats(0, 1)
candidate = st.lists(weight, min_size=3, max_size=3).filter(lambda weights: sum(weights) > 1e-3).map(scored)


@given(st.lists(candidate, min_size=1, max_size=8), st.floats(0.1, 5), st.floats(0, 5), st.floats(-5, 5))
def test_calibrated_probabilities_are_probabilities_and_keep_the_order(
    raw: list[Scored], a: float, b: float, c: float
) -> None:
    map_ = map_of({"post_interest": BetaMap(a=a, b=b, c=c)})
    new = calibrate(raw, TASK, map_)
    for before, after in zip(raw, new, strict=True):
        assert list(after.probabilities) == NAMES
        assert all(0 <= value <= 1 for value in (after.score, *after.probabilities.values()))
        assert sum(after.probabilities.values()) == pytest.approx(1)
        assert after.probabilities["like"] + after.probabilities["later"] == pytest.approx(after.score)
        assert after.score == map_.apply("post_interest", [before.score])[0]
        cross = before.probabilities["like"] * after.probabilities["later"]
        assert cross == pytest.approx(before.probabilities["later"] * after.probabilities["like"])
    places = range(len(raw))
    assert all(new[i].score <= new[j].score for i in places for j in places if raw[i].score < raw[j].score)


@pytest.mark.parametrize(("raw", "likes"), [({"like": 0.0, "later": 0.0, "hide": 1.0}, 0.0), ({"like": 1.0}, 1.0)])
def test_a_certain_answer_becomes_a_probability(raw: dict[str, float], likes: float) -> None:
    probabilities = {name: raw.get(name, 0.0) for name in NAMES}
    (new,) = calibrate(
        [Scored(score=likes, probabilities=probabilities)], TASK, map_of({TASK.name: BetaMap(a=1, b=1, c=0)})
    )
    assert new.score == pytest.approx(likes, abs=1e-9)
    assert sum(new.probabilities.values()) == pytest.approx(1)


@pytest.fixture
def service(version: LoadedVersion, table_engine: Any) -> RankingService:
    return RankingService(3, replace(version, calibration=MAP), table_engine, None)


@pytest.fixture
def posts() -> dict[str, Any]:
    candidates = [{"id": f"p{i}", "fields": {"topic": topic}} for i, topic in enumerate(["nurse", "chef", "pilot"])]
    return {"task": "post_interest", "member": {"profile": {"title": "engineer"}}, "candidates": candidates}


async def test_a_request_gets_calibrated_probabilities_if_it_asks_for_them(
    service: RankingService, posts: dict[str, Any]
) -> None:
    api = create_app(LocalBackend(service))
    async with AsyncRankClient("http://test", transport=httpx.ASGITransport(api)) as client:
        raw, calibrated = await client.rank(**posts), await client.rank(**posts, calibrated=True)
    assert (raw.calibrated, calibrated.calibrated) == (False, True)
    assert [item.id for item in raw.ranking] == [item.id for item in calibrated.ranking]
    for before, after in zip(raw.ranking, calibrated.ranking, strict=True):
        (expected,) = calibrate([Scored(score=before.score, probabilities=before.probabilities)], TASK, MAP)
        assert (after.score, after.probabilities) == (expected.score, expected.probabilities)


async def test_a_version_without_a_map_of_the_task_refuses_and_says_what_to_do(
    service: RankingService, version: LoadedVersion, table_engine: Any, body: dict[str, Any]
) -> None:
    body["calibrated"] = True
    async with client_of_app(create_app(LocalBackend(service))) as http:
        answer = await http.post("/v1/rank", json=body)
    assert (answer.status_code, answer.json()["code"]) == (409, "uncalibrated")
    assert "no map of the task 'job_apply': only 3 validation rows" in answer.json()["error"]
    without = RankingService(4, version, table_engine, None)
    async with AsyncRankClient(
        "http://test", transport=httpx.ASGITransport(create_app(LocalBackend(without)))
    ) as client:
        with pytest.raises(Uncalibrated, match="version 4 has no calibration map.* Leave out `calibrated`"):
            await client.rank(**body)
    assert table_engine.calls == 0


def test_a_nearline_ranking_is_calibrated_if_its_request_asks_for_it(nearline: LocalNearline) -> None:
    jobs = [rank_job("a", task="post_interest", candidates=["e1", "e3"])]
    jobs.append(rank_job("b", task="post_interest", candidates=["e1", "e3"], calibrated=True))
    rankings = []
    for place, job in enumerate(jobs):
        nearline.worker(calibration=MAP).handle("ada", [replace(job, accepted_at=place)])
        stored = nearline.store.ranking("post_interest", "ada")
        assert stored is not None
        rankings.append(stored.answer)
    assert [ranking["calibrated"] for ranking in rankings] == [False, True]
    scores = [[item["score"] for item in ranking["ranking"]] for ranking in rankings]
    assert scores[1] == MAP.apply("post_interest", scores[0]).tolist()
    nearline.worker(calibration=MAP).handle("ada", [replace(rank_job("c", calibrated=True), accepted_at=9)])
    (receipt,) = nearline.store.receipts(["rank:c"]).values()
    assert receipt.state == "dead"
    assert "no map of the task 'job_apply'" in (receipt.error or "")


def test_a_batch_is_calibrated_by_task(version: LoadedVersion) -> None:
    loaded = replace(version, calibration=MAP)
    raw: list[Scored | BrewError] = [
        scored([0.2, 0.3, 0.5]),
        scored([0.1, 0.2, 0.3]),
        BrewError("no"),
        scored([0.1, 0.1, 0.1]),
    ]
    tasks = ["post_interest", "job_apply", "post_interest", "post_interest"]
    listed = pa.table({"row": [0, 0, 1, 2], "task": tasks, "candidate_id": list("abcd")})
    results = calibrate_results(listed, dict(enumerate(raw)), loaded, 7)
    rows = join_scores(listed, results, 7, calibrated=True).to_pylist()
    assert rows[0]["score"] == MAP.apply("post_interest", [0.5])[0]
    assert "of version 7 has no map of the task 'job_apply'" in rows[1]["error"]
    assert rows[2]["error"] == "no"
    assert rows[3]["error"] is None
    assert {row["calibrated"] for row in rows} == {True}


def test_the_scores_of_a_service_are_raw_by_default(service: RankingService, posts: dict[str, Any]) -> None:
    from brew_serve.schemas.rank import RankRequest

    response = asyncio.run(service.rank(RankRequest.model_validate(posts))).response
    assert not response.calibrated
