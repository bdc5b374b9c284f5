"""A service with a canary logs its answers; with later events, its figures are those of the responses."""

import shutil
import time
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest

from brew_data.data_folder import DataFolder, DatasetInfo
from brew_data.privacy.pseudonyms import PseudonymConfig
from brew_data.prompts.bundle import PromptBundle
from brew_data.schema import Tables, write_tables
from brew_data.split import Split
from brew_eval.evaluation import evaluate
from brew_eval.measurement import EvaluationConfig
from brew_eval.scored_rows import ScoredRows, ScoredRowsInfo
from brew_platform.ports import free_port
from brew_serve.engines.config import EngineConfig
from brew_serve.ranking.answer_log_config import AnswerLogConfig
from brew_serve.version import LoadedVersion

from ..running_ray import RAY, running_ray
from ..served_registry import write_served_registry

pytestmark = RAY

REQUESTS = 16
CONFIG = EvaluationConfig(replicates=5)


def write_data(folder: Path, tables: Tables, version: LoadedVersion) -> DataFolder:
    write_tables(tables, folder / "tables")
    bundle = PromptBundle.of(version.compiler)
    bundle.save(folder / "prompts")
    DatasetInfo(
        source="tables", split=Split(train_until=5, until=9), has_true_probabilities=False, config_digest="c" * 64,
        prompt_digest=bundle.digest, commit=None,
    ).write(folder)  # fmt: skip
    return DataFolder.open(folder)


def scored_rows(responses: dict[str, dict[str, Any]], clicked: dict[str, str]) -> ScoredRows:
    """Return the candidates of responses, with the clicks as labels."""
    rows = [
        {
            "row_id": number * 100 + place, "slate": number, "task": "job_apply", "surface": "jobs", "time": 1,
            "member": id_, "history": 0, "is_trained": True, "label": clicked[id_] == item["id"],
            "score": item["score"],
        }
        for number, (id_, response) in enumerate(responses.items())
        for place, item in enumerate(response["ranking"])
    ]  # fmt: skip
    return ScoredRows.of(pa.Table.from_pylist(rows), ScoredRowsInfo(model="m", suite="s", data_digest="d"))


def test_live_figures_are_those_of_the_responses(version: LoadedVersion, tables: Tables, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from brew_cluster.jobs.benchmark_online import evaluate_online
    from brew_serve.deployment.applications import delete_applications
    from brew_serve.deployment.online_service import build_app, serve_http

    other = shutil.copytree(version.folder, tmp_path / "other")
    (weights,) = other.glob("*.safetensors")
    tensors = load_file(weights)
    save_file({**tensors, "lm_head.weight": tensors["lm_head.weight"] * -1.0}, weights, {"format": "pt"})
    (tmp_path / "answers.key").write_text("0123456789abcdef" * 2)
    key = PseudonymConfig(file=str(tmp_path / "answers.key"))
    config = write_served_registry(
        tmp_path / "service",
        [version.folder, other],
        engine=EngineConfig(kind="torch", threads=1),
        cpus=0.4,
        follow_seconds=0.5,
        answer_log=AnswerLogConfig(url=str(tmp_path / "answers"), key=key, file_seconds=3_600.0),
    )
    config.open_registry().append("canary", 2, author="test", share=0.5)
    responses: dict[str, dict[str, Any]] = {}
    with running_ray():
        url = serve_http(build_app(config), port=free_port())
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
            end = time.monotonic() + 120
            while [found["state"] for found in http.get("/v1/status").json()["versions"]] != ["up", "up"]:
                assert time.monotonic() < end
                time.sleep(0.2)
            time.sleep(1.5)  # until the gateway knows the canary
            for number in range(REQUESTS):
                body = {
                    "task": "job_apply",
                    "member": {"profile": {"title": f"nurse {number}"}},
                    "candidates": [{"id": f"c{n}", "fields": {"title": f"pilot {n}"}} for n in range(6)],
                }
                answer = http.post("/v1/rank", json=body, headers={"x-request-id": f"r{number}"})
                responses[f"r{number}"] = answer.json()
        delete_applications()  # the replicas write what they have

    clicked = {id_: f"c{number % 6}" for number, id_ in enumerate(responses)}
    now = int(time.time() * 1e6)
    columns = {"request_id": list(clicked), "entity_id": list(clicked.values())}
    events = pa.table(columns | {"action": ["apply"] * REQUESTS, "time": [now] * REQUESTS})
    data = write_data(tmp_path / "data", tables, version)
    live = evaluate_online(
        str(tmp_path / "answers"), events, data, window=10**10, until=now + 10**11, key=key.open(), config=CONFIG
    )
    assert [(arm.role, arm.version) for arm in live.arms] == [("canary", 2), ("production", 1)]
    for arm in live.arms:
        answered = {id_: response for id_, response in responses.items() if response["version"] == arm.version}
        expected = evaluate(scored_rows(answered, clicked), config=CONFIG).tasks["job_apply"].figures
        assert (arm.joined, arm.unjoined, arm.too_young) == (len(answered), 5 * len(answered), 0)
        for name, figure in arm.report.tasks["job_apply"].figures.items():
            assert figure.value == pytest.approx(expected[name].value), (arm.name, name)
