"""Training documents, batch requests, and HTTP requests by id and inline have the same token ids."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from fastapi.testclient import TestClient

from brew_data.pipelines.corpus import corpus_tokenizer
from brew_data.pipelines.documents import compile_documents
from brew_data.pipelines.member_groups import compiler_spec, load_compiler
from brew_data.pipelines.requests import compile_requests
from brew_data.privacy.config import PrivacyConfig
from brew_data.privacy.table_privacy import make_private
from brew_data.prompts.bundle import PromptBundle
from brew_data.prompts.compiler import PromptCompiler, PromptFormat
from brew_data.prompts.suite import load_suite
from brew_data.prompts.tokenizer import Tokenizer
from brew_data.records import Records
from brew_data.schema import Tables, micros, write_tables
from brew_data.sources.synthetic.config import SyntheticConfig
from brew_data.sources.synthetic.generator import generate
from brew_data.split import Split
from brew_serve.context.base import MemberContext
from brew_serve.engines.base import Shared
from brew_serve.engines.config import EngineConfig
from brew_serve.http.app import create_app
from brew_serve.http.backend import LocalBackend
from brew_serve.nearline.message_handler import NearlineWorker
from brew_serve.nearline.outbox import Job
from brew_serve.nearline.store import SqliteNearlineStore
from brew_serve.ranking.scoring import Scorer
from brew_serve.ranking.service import RankingService
from brew_serve.version import LoadedVersion

from .base_tokenizers import write_base_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")


SIMILAR = {"name": "similarity", "max_interactions": 5, "deduplicate": True, "keep": {"skip": 0.3, "dismiss": 0.5}}


class RecordingEngine:
    """A stub that records its requests."""

    def __init__(self) -> None:
        self.prompts: list[tuple[int, ...]] = []

    async def next_token_logprobs(
        self, prompt: Sequence[int], token_ids: Sequence[int], shared: Shared | None = None
    ) -> list[float]:
        self.prompts.append(tuple(prompt))
        return [-1.0 - i for i in range(len(token_ids))]

    def take(self) -> tuple[int, ...]:
        """Return the prompt of the only candidate; labels of several tokens also continue it."""
        prompts, self.prompts = self.prompts, []
        shortest = min(prompts, key=len)
        assert all(prompt[: len(shortest)] == shortest for prompt in prompts)
        return shortest

    def check(self) -> None: ...

    def close(self) -> None: ...


def make_tables(values: str) -> Tables:
    """Synthetic tables; `untidy` ones have lists, numbers, booleans, NaN, and blank text in place of some strings."""
    config = SyntheticConfig(members=12, jobs=20, posts=20, interactions_per_member=30, pii_share=0.4)  # with contacts
    tables = generate(config)
    if values == "strings":
        return tables
    return replace(
        tables,
        members=_with_column(tables.members, "profile", _untidy_profile),
        entities=_with_column(tables.entities, "fields", _untidy_fields),
    )


def _with_column(table: pa.Table, name: str, change: Callable[[int, dict[str, Any]], dict[str, Any]]) -> pa.Table:
    rows = [change(i, row) for i, row in enumerate(table[name].to_pylist())]
    return table.set_column(table.column_names.index(name), name, pa.array(rows))


def _untidy_profile(i: int, profile: dict[str, Any]) -> dict[str, Any]:
    blank = ["", " \t", None][i % 3]
    return profile | {
        "skills": [f" {profile['skills']}", "", None],
        "location": profile["location"] if i % 2 else blank,
        "seniority": [float("nan"), 3.0, 2.5][i % 3],
        "industry": f" {profile['industry']}\n",
    }


def _untidy_fields(i: int, fields: dict[str, Any]) -> dict[str, Any]:
    return fields | {
        "skills": [] if fields["skills"] is None else fields["skills"].split(", "),
        "applicants": [float(i), float("nan"), None][i % 3],
        "followers": bool(i % 2) if fields["followers"] else None,
    }


@pytest.mark.parametrize(
    ("name", "values", "base", "policy"),
    [
        ("economic_graph", "strings", None, {}),
        ("economic_graph", "untidy", None, {}),
        ("economic_graph_chat", "strings", None, {}),
        ("economic_graph_chat", "untidy", None, {}),
        ("economic_graph_chat", "untidy", "gemma3", {}),
        ("economic_graph_chat", "strings", "mixtral", {}),
        ("economic_graph", "strings", "llama3", {}),
        ("economic_graph_chat", "strings", "qwen3", {}),
        ("economic_graph_chat", "untidy", None, SIMILAR),
        ("economic_graph", "untidy", None, {"name": "round_robin", "positives_only": True, "max_interactions": 6}),
    ],
)
def test_one_prompt_is_the_same_token_ids_on_every_path(
    name: str, values: str, base: str | None, policy: dict[str, Any], tmp_path: Path
) -> None:
    tables = make_tables(values)  # what requests send
    cleaned = make_private(tables, PrivacyConfig())[0]
    write_tables(cleaned, tmp_path / "tables")
    suite = load_suite(name)
    times = micros(tables.interactions)
    split = Split(train_until=times[len(times) // 3].as_py(), until=times[-1].as_py())
    if base is None:
        tokenizer = corpus_tokenizer(tmp_path / "tables", suite, split, 600)
        prompts = PromptFormat(context_length=4096, head_tokens=384, question_tokens=128)
    else:  # these small tokenizers have few words
        write_base_tokenizer(base, tmp_path)
        tokenizer = Tokenizer.from_model(tmp_path)
        prompts = PromptFormat(context_length=32_768, head_tokens=1024, question_tokens=640)
    history = {task.name: replace(task.history, **policy) for task in suite.tasks} if policy else {}
    compiler = PromptCompiler(suite, tokenizer, prompts, history)
    PromptBundle.of(compiler).save(tmp_path / "version")
    served = PromptBundle.load(tmp_path / "version").compiler(history)
    start = [] if tokenizer.bos is None else [tokenizer.bos]
    compiler, records = load_compiler(compiler_spec(compiler)), Records(cleaned)
    compared = begun = 0
    for member in set(tables.interactions["member_id"].to_pylist()):
        rows = tables.interactions.filter(pc.equal(tables.interactions["member_id"], member))
        requests = compile_requests(records.members(rows), compiler, after=split.train_until).to_pylist()
        documents = compile_documents(records.members(rows), compiler).to_pylist()
        for request in requests[:2]:  # the HTTP side builds a member context for each
            first = request["interaction_ids"][0]
            row = rows.filter(pc.equal(rows["interaction_id"], first)).to_pylist()[0]
            earlier = pc.less(tables.interactions["timestamp"], row["timestamp"])
            known = replace(tables, interactions=tables.interactions.filter(earlier))
            prompt = tuple(request["prefix_ids"] + request["question_ids"][0])
            assert served_prompts(known, served, request["task"], row, tmp_path) == [prompt, prompt, prompt]
            assert "@example.com" not in tokenizer.decode(prompt)
            assert [id_ for id_ in prompt if id_ in {tokenizer.bos, tokenizer.system, tokenizer.member}] == [
                *start, tokenizer.system, tokenizer.member,
            ]  # fmt: skip
            compared += 1
            if policy:  # documents have the policies of the suite
                continue
            # A member's document is the chat of one task's instruction; prompts of that task are its beginning.
            lent = tokenizer.encode(suite.instruction(suite.task(request["task"])))
            [document] = documents
            if tuple(document["ids"][1 + len(start) :][: len(lent)]) == lent:
                assert tuple(document["ids"][: len(prompt)]) == prompt
                begun += 1
    assert compared > 10
    assert begun > 3 or policy


def served_prompts(
    known: Tables, compiler: PromptCompiler, task: str, row: dict, folder: Path
) -> list[tuple[int, ...]]:
    """The prompts of `row` as online requests make them, by id and inline, and a nearline message."""
    path = folder / f"{row['interaction_id']}.sqlite"
    MemberContext.build(known, path)
    engine = RecordingEngine()
    version = LoadedVersion(folder=folder, suite=compiler.suite, compiler=compiler, engine=EngineConfig())
    service = RankingService(1, version, engine, MemberContext(path))
    members = {m["member_id"]: m["profile"] for m in known.members.to_pylist()}
    entities = {e["entity_id"]: e for e in known.entities.to_pylist()}
    history = [
        {
            "entity_type": entities[past["entity_id"]]["entity_type"],
            "fields": _given(entities[past["entity_id"]]["fields"]),
            "surface": past["surface"],
            "action": past["action"],
            "timestamp": past["timestamp"].isoformat(),
        }
        for past in known.interactions.filter(pc.equal(known.interactions["member_id"], row["member_id"])).to_pylist()
    ]
    candidate = row["entity_id"]
    prompts = []
    with TestClient(create_app(LocalBackend(service))) as client:
        for body in [
            {"task": task, "member_id": row["member_id"], "candidates": [candidate]},
            {
                "task": task,
                "member": {"profile": _given(members[row["member_id"]]), "history": history},
                "candidates": [{"id": candidate, "fields": _given(entities[candidate]["fields"])}],
            },
        ]:
            answer = client.post("/v1/rank", json=body)
            assert answer.status_code == 200, answer.text
            prompts.append(engine.take())
    worker = NearlineWorker(
        1, Scorer(engine, compiler), MemberContext(path), SqliteNearlineStore(path.with_suffix(".store")), asyncio.run
    )
    payload = {"request_id": "r", "candidates": [candidate], "instruction": "", "top_k": None}
    worker.handle(
        row["member_id"], [Job(job_id="rank:r", kind="rank", member_id=row["member_id"], task=task, payload=payload)]
    )
    return [*prompts, engine.take()]


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields as JSON can hold them: NaN as null."""
    return {name: None if value != value else value for name, value in fields.items()}
