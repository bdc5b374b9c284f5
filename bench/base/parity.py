"""`python -m bench.base.parity MODEL --data FOLDER --report FILE`: compares prompts and scores on all paths.

Prompts: the token ids of a training document, a batch request, an online request (by id and inline) and a nearline
message are the same. Scores: the vLLM engine in float32 equals a plain PyTorch forward pass, also for prompts that are
longer than the model's sliding window.
"""

import argparse
import asyncio
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from fastapi.testclient import TestClient

from brew_cluster.cli.runner import supervise
from brew_data.data_folder import DataFolder
from brew_data.pipelines.documents import compile_documents
from brew_data.pipelines.member_groups import compiler_spec, load_compiler
from brew_data.pipelines.requests import compile_requests
from brew_data.prompts.compiler import PromptCompiler, PromptFormat
from brew_data.records import Records
from brew_data.schema import Tables, micros
from brew_platform.console.plain_console import PlainConsole
from brew_platform.files import replace_atomically
from brew_serve.context.base import MemberContext
from brew_serve.engines.base import Engine, Shared
from brew_serve.engines.config import EngineConfig
from brew_serve.engines.registry import create_engine
from brew_serve.http.app import create_app
from brew_serve.http.backend import LocalBackend
from brew_serve.nearline.message_handler import NearlineWorker
from brew_serve.nearline.outbox import Job
from brew_serve.nearline.store import SqliteNearlineStore
from brew_serve.ranking.scoring import Scorer
from brew_serve.ranking.service import RankingService
from brew_serve.version import LoadedVersion

__all__ = ["compare_prompts", "compare_scores", "long_prompts"]

Ids = tuple[int, ...]
LONG_CONTEXT = 1024  # tokens; Gemma 3's sliding window has 512


class PromptRecorder:
    """An engine that records prompts, and answers with equal probabilities."""

    vocabulary_size = context_length = 10**9

    def __init__(self) -> None:
        self.prompts: list[Ids] = []

    async def next_token_logprobs(
        self, prompt: Sequence[int], token_ids: Sequence[int], shared: Shared | None = None
    ) -> list[float]:
        self.prompts.append(tuple(prompt))
        return [0.0] * len(token_ids)

    def take(self) -> Ids:
        """Return the shortest prompt since the last call; longer ones continue it with the first tokens of labels."""
        prompts, self.prompts = self.prompts, []
        return min(prompts, key=len)

    def check(self) -> None: ...

    def close(self) -> None: ...


def compare_prompts(data: DataFolder, *, members: int, history: int = 6) -> tuple[int, int]:
    """Compile the same questions on the four paths.

    Args:
        data: The data folder; its rows before the cut are used.
        members: The number of members to compare.
        history: Interactions of each member before the question.

    Returns:
        The number of questions, and the number of those whose token ids are the same on all paths.
    """
    tables, compiler = data.tables(), data.bundle().compiler()
    compiler, records = load_compiler(compiler_spec(compiler)), Records(tables)
    rows = tables.interactions.filter(pc.less_equal(micros(tables.interactions), data.info.split.train_until))
    compared = same = 0
    with tempfile.TemporaryDirectory() as folder:
        for member in sorted(set(rows["member_id"].to_pylist())):
            own = rows.filter(pc.equal(rows["member_id"], member)).sort_by(
                [("timestamp", "ascending"), ("interaction_id", "ascending")]
            )
            times = micros(own).to_pylist()
            cut = next((i for i in range(history, len(times)) if times[i] != times[i - 1]), None)
            if cut is None or cut > 3 * history:
                continue
            found = prompts_of(tables, own.slice(0, cut + 1), records, compiler, Path(folder))
            if found:
                compared, same = compared + 1, same + (len(set(found)) == 1)
            if compared == members:
                break
    return compared, same


def prompts_of(tables: Tables, rows: pa.Table, records: Records, compiler: PromptCompiler, folder: Path) -> list[Ids]:
    """Return the prompts about the last of a member's rows: training, batch, nearline, online by id and inline.

    Empty if no task follows the surface of the last row, or the training document has another task's instruction.
    """
    row = rows.slice(rows.num_rows - 1).to_pylist()[0]
    after = micros(rows).to_pylist()[-2]
    requests = compile_requests(records.members(rows), compiler, after=after).to_pylist()
    document = tuple(compile_documents(records.members(rows), compiler).to_pylist()[0]["ids"])
    task, batch = next(
        (
            (request["task"], prompt)
            for request in requests
            if document[: len(prompt := (*request["prefix_ids"], *request["question_ids"][0]))] == prompt
        ),
        (requests[0]["task"], (*requests[0]["prefix_ids"], *requests[0]["question_ids"][0])),
    )
    instruction = compiler.tokenizer.encode(compiler.suite.instruction(compiler.suite.task(task)))
    start = 1 + (compiler.tokenizer.bos is not None)
    if document[start : start + len(instruction)] != instruction:
        return []
    earlier = replace(tables, interactions=rows.slice(0, rows.num_rows - 1))
    path = folder / f"{row['interaction_id']}.sqlite"
    MemberContext.build(earlier, path)
    engine = PromptRecorder()
    version = LoadedVersion(folder=folder, suite=compiler.suite, compiler=compiler, engine=EngineConfig())
    service = RankingService(1, version, engine, MemberContext(path))
    found = [document[: len(batch)], batch]
    with TestClient(create_app(LocalBackend(service))) as client:
        for body in _bodies(tables, earlier, row, task):
            client.post("/v1/rank", json=body).raise_for_status()
            found.append(engine.take())
    worker = NearlineWorker(
        1, Scorer(engine, compiler), MemberContext(path), SqliteNearlineStore(path.with_suffix(".store")), asyncio.run
    )
    payload = {"request_id": "r", "candidates": [row["entity_id"]], "instruction": "", "top_k": None}
    member = row["member_id"]
    worker.handle(member, [Job(job_id="rank:r", kind="rank", member_id=member, task=task, payload=payload)])
    return [*found, engine.take()]


def _bodies(tables: Tables, earlier: Tables, row: dict[str, Any], task: str) -> list[dict[str, Any]]:
    """The request by id, and the same one with profile, history and candidate inline."""
    records = Records(tables)
    history = [
        {
            "entity_type": records.entities[past["entity_id"]].entity_type,
            "fields": dict(records.entities[past["entity_id"]].fields),
            "surface": past["surface"],
            "action": past["action"],
            "timestamp": past["timestamp"].isoformat(),
        }
        for past in earlier.interactions.to_pylist()
    ]
    candidate, member = row["entity_id"], row["member_id"]
    return [
        {"task": task, "member_id": member, "candidates": [candidate]},
        {
            "task": task,
            "member": {"profile": dict(records.profiles[member]), "history": history},
            "candidates": [{"id": candidate, "fields": dict(records.entities[candidate].fields)}],
        },
    ]


def long_prompts(data: DataFolder, *, context: int, count: int) -> tuple[PromptCompiler, str, list[tuple[Ids, Ids]]]:
    """Compile prompts of different lengths, up to the context.

    Returns:
        The compiler, the task, and for each prompt its prefix and its question.
    """
    bundle, tables = data.bundle(), data.tables()
    compiler = replace(bundle, format=_longer(bundle.format, context)).compiler()
    task = compiler.suite.tasks[0]
    records = Records(tables)
    rows = tables.interactions.filter(pc.is_in(tables.interactions["surface"], pa.array(task.history.surfaces)))
    counts = rows.group_by("member_id").aggregate([("member_id", "count")]).sort_by(
        [("member_id_count", "descending"), ("member_id", "ascending")]
    )  # fmt: skip
    members = [member for member in counts["member_id"].to_pylist() if member in records.profiles][:count]
    prompts = []
    for index, member in enumerate(members):
        history = records.history(rows.filter(pc.equal(rows["member_id"], member)))
        candidate = next(past for past in reversed(history) if past.surface == task.surface)
        profile = records.profiles[member]
        # From all of the history to a part of it, so that the prompts have different lengths.
        shown = history[: max(1, len(history) * (index + 1) // len(members) - 1)]
        prefix = compiler.prefix(task, profile, shown)
        prompts.append((prefix.ids, compiler.question(task, profile, candidate.entity)[0]))
    return compiler, task.name, prompts


def _longer(format: PromptFormat, context: int) -> PromptFormat:
    return replace(format, context_length=max(context, format.context_length))


def compare_scores(model: Path, data: DataFolder, *, context: int, count: int) -> dict[str, Any]:
    """Score prompts with vLLM in float32 and with PyTorch.

    Returns:
        `score`, the largest difference of a score; `logprob`, that of a label's log-probability; `scored` and
        `longest`, the number of prompts and the tokens of the longest.
    """
    compiler, task, prompts = long_prompts(data, context=context, count=count)
    labels = sorted({ids[0] for ids in compiler.labels(compiler.suite.task(task)).values()})
    config = EngineConfig(max_model_len=compiler.format.context_length, dtype="float32")

    async def score(engine: Engine) -> tuple[list[float], list[list[float]]]:
        scorer = Scorer(engine, compiler)
        scores = [(await scorer.score_prompt(compiler.suite.task(task), *prompt)).score for prompt in prompts]
        logprobs = [await engine.next_token_logprobs((*prefix, *question), labels) for prefix, question in prompts]
        return scores, logprobs

    results = []
    for kind in ("vllm", "torch"):
        engine = create_engine(model, replace(config, kind=kind))
        try:
            results.append(asyncio.run(score(engine)))
        finally:
            engine.close()
    (scores, logprobs), (expected, expected_logprobs) = results
    return {
        "score": max(abs(a - b) for a, b in zip(scores, expected, strict=True)),
        "logprob": max(
            abs(a - b)
            for found, right in zip(logprobs, expected_logprobs, strict=True)
            for a, b in zip(found, right, strict=True)
        ),
        "scored": len(prompts),
        "longest": max(len(prefix) + len(question) for prefix, question in prompts),
    }


def main() -> None:
    """Compare, and write the report."""
    parser = argparse.ArgumentParser(prog="python -m bench.base.parity", description=__doc__)
    parser.add_argument("model", type=Path, help="Folder of an export.")
    parser.add_argument("--data", type=Path, required=True, help="Data folder of its training.")
    parser.add_argument("--report", type=Path, required=True)
    parser.add_argument("--members", type=int, default=20, help="Members whose prompts are compared. Default: 20.")
    parser.add_argument("--prompts", type=int, default=8, help="Prompts whose scores are compared. Default: 8.")
    parser.add_argument("--context", type=int, default=LONG_CONTEXT, help="Most tokens of these prompts.")
    options = parser.parse_args()
    with supervise(PlainConsole()):
        data = DataFolder.open(options.data)
        compared, same = compare_prompts(data, members=options.members)
        report = {
            "prompts": int(0 < compared == same),
            "compared": compared,
            **compare_scores(options.model, data, context=options.context, count=options.prompts),
        }
        replace_atomically(options.report, json.dumps(report, indent=1) + "\n")
        print(json.dumps(report))


if __name__ == "__main__":
    main()
