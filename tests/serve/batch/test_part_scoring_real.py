"""A batch on Ray whose requests end the engine, or the process that runs it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from brew_data.schema import Tables
from brew_platform.errors import BrewError
from brew_serve.batch.config import BatchConfig
from brew_serve.batch.plan import BatchPlan
from brew_serve.batch.quarantine import ABANDONED
from brew_serve.context.base import MemberContext
from brew_serve.engines.config import EngineConfig
from brew_serve.version import LoadedVersion

from ..running_ray import RAY, running_ray

pytestmark = [*RAY, pytest.mark.faults]


@pytest.fixture(scope="module")
def ray_session() -> Iterator[None]:
    with running_ray():
        yield


def factory(deadly: dict[tuple[int, ...], str]) -> Any:
    """Return a factory of engines that a prompt with one of these prefixes ends: the engine, or its process, too."""

    def create(folder: Path, _: Any) -> Any:
        import os  # these imports are here because Ray sends this function to its workers without the module
        from collections.abc import Sequence
        from typing import Any

        from brew_platform.errors import BrewError
        from brew_serve.engines.torch import TorchEngine

        class Fragile(TorchEngine):
            ended = False

            async def next_token_logprobs(self, prompt: Sequence[int], *arguments: Any) -> list[float]:
                for prefix, what in deadly.items():
                    if tuple(prompt[: len(prefix)]) == prefix:
                        if what == "process":
                            os._exit(1)
                        self.ended = True
                self.check()
                return await super().next_token_logprobs(prompt, *arguments)

            def check(self) -> None:
                if self.ended:
                    raise BrewError("the engine failed (OutOfMemory).")

        return Fragile(folder)

    return create


def score(
    plan: BatchPlan, out: Path, version: LoadedVersion, config: BatchConfig, deadly: dict[Any, str], **arguments: Any
) -> None:
    """Score the missing parts of a plan in the folder `out`, beside which the context is."""
    from brew_serve.batch.part_scoring import score_parts

    context = str(out.parent / "context.sqlite")
    parts = plan.missing(out)
    score_parts(
        plan, parts, out, version.folder, EngineConfig(), context, config, engine_factory=factory(deadly), **arguments
    )


def test_a_batch_abandons_the_requests_that_end_its_engine_and_finishes(
    ray_session: None, version: LoadedVersion, tables: Tables, tmp_path: Path
) -> None:
    MemberContext.build(tables, tmp_path / "context.sqlite")
    texts = [f"Wish number {number}." for number in range(11)]
    rows = [
        {"task": "job_apply", "member_id": "ada", "candidates": ["e0", "e2"], "instruction": text} for text in texts
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet", row_group_size=6)
    context = MemberContext(tmp_path / "context.sqlite")
    profile, history = context.member("ada")
    context.close()
    task = version.suite.task("job_apply")
    deadly = {
        version.compiler.prefix(task, profile, history, own_words=texts[number]).ids: what
        for number, what in ((4, "process"), (8, "engine"))
    }
    plan = BatchPlan.of(tmp_path / "in.parquet", model="brew360", version=7, engine={}, context="c", rows=4)
    out = tmp_path / "out"
    plan.begin(out)
    done: list[int] = []
    score(plan, out, version, BatchConfig(rows=4, most_attempts=2), deadly, on_part=done.append)
    totals = plan.finish(out)
    assert (totals.rows, totals.candidates, totals.failed, totals.abandoned) == (11, 22, 4, 4)
    assert sorted(done) == [1, 2, 4, 4]
    scored = pq.read_table(out).to_pylist()
    assert {row["row"] for row in scored if row["error"]} == {4, 8}
    assert all(row["error"].startswith(ABANDONED) for row in scored if row["error"])
    assert all(row["score"] is not None for row in scored if not row["error"])
    assert list((out / "_attempts").iterdir()) == []


def test_a_batch_stops_if_every_request_ends_its_engine(
    ray_session: None, version: LoadedVersion, tables: Tables, tmp_path: Path
) -> None:
    from brew_platform.errors import first_cause

    MemberContext.build(tables, tmp_path / "context.sqlite")
    row = {"task": "job_apply", "member_id": "ada", "candidates": ["e0"]}
    pq.write_table(pa.Table.from_pylist([row] * 3), tmp_path / "in.parquet")
    plan = BatchPlan.of(tmp_path / "in.parquet", model="brew360", version=7, engine={}, context="c", rows=4)
    out = tmp_path / "out"
    plan.begin(out)
    with pytest.raises(Exception, match="OutOfMemory") as error:
        score(plan, out, version, BatchConfig(rows=4), {(): "engine"})
    assert isinstance(first_cause(error.value), BrewError)
    assert plan.missing(out) == list(plan.parts()), "nothing is written"
