"""`brew360 benchmark explain`: finds the row of a data folder, and scores its prompt without each part."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from brew_cluster.jobs.benchmark import BenchmarkJob, BenchmarkModel, benchmark_bundle, version_folder
from brew_cluster.jobs.member_rows import read_member
from brew_data.data_folder import DataFolder
from brew_data.prompts.suite import TaskSuite
from brew_data.prompts.tasks import TaskSpec
from brew_data.schema import iso_time, micros
from brew_data.split import Split
from brew_eval.explanation import Explanation, Order, explain
from brew_eval.prompt_variants import PromptRow, PromptVariants
from brew_eval.scored_rows import hash_members
from brew_platform.console.plain_console import PlainConsole
from brew_platform.console.progress import Phases
from brew_platform.errors import UserError
from brew_platform.provenance import now, source_commit
from brew_serve.engines.registry import create_engine
from brew_serve.ranking.scoring import Scorer
from brew_serve.version import LoadedVersion, load_version

__all__ = ["Explainer", "RowChoice", "prepare_explanation"]


@dataclass(frozen=True, kw_only=True)
class RowChoice:
    """Which row is explained.

    Args:
        member: The member; None: that of `interaction`.
        interaction: The interaction to predict, the `row_id` of scored rows; None: `row`, or the newest one.
        row: The place among the member's rows after the cut, by time, from 0 on.
    """

    member: str | None = None
    interaction: int | None = None
    row: int | None = None

    def __post_init__(self) -> None:
        if self.interaction is not None and self.row is not None:
            raise UserError("--interaction and --row exclude each other. Give one of them.")
        if self.interaction is None and self.member is None:
            raise UserError(
                "there is nothing to explain. Pass --member ID, a member of the data, or --interaction ID, a row_id of "
                "the scored rows of `brew360 benchmark run`."
            )


@dataclass(frozen=True, kw_only=True)
class Explainer:
    """A row that was found and compiled, and the model that scores it; nothing is loaded yet.

    Args:
        member: The member, as the tables name it.
        version: The model.
        variants: The prompts.
        outcome: The true outcome, or None.
        origin: Model, data and row, by name. The member is hashed as in scored rows.
        warnings: What a reader must know of the row.
        in_flight: Maximum number of prompts in the engine at a time.
    """

    member: str
    version: LoadedVersion
    variants: PromptVariants
    outcome: str | None
    origin: dict[str, Any]
    warnings: list[str]
    in_flight: int

    def run(self, console: PlainConsole, *, order: Order = "probability") -> Explanation:
        """Load the model and score the prompts.

        Args:
            console: Shows the progress.
            order: As in `explain`.

        Raises:
            BrewError: As `create_engine` and `explain`.
        """
        phases = Phases(["load model", "score"], console=console)
        with phases.phase("load model"):
            engine = create_engine(self.version.folder, self.version.engine)
        try:
            with phases.phase("score", unit="prompts") as progress:
                scored = explain(
                    Scorer(engine, self.version.compiler),
                    self.variants,
                    outcome=self.outcome,
                    origin=self.origin,
                    warnings=self.warnings,
                    order=order,
                    in_flight=self.in_flight,
                    on_progress=lambda done, total: progress.update(done, total=total),
                )
                return asyncio.run(scored)
        finally:
            engine.close()


def prepare_explanation(job: BenchmarkJob, model: BenchmarkModel, data: DataFolder, choice: RowChoice) -> Explainer:
    """Find the row, and compile its prompt as `brew360 benchmark run` does.

    Args:
        job: Settings of a benchmark. The row is of the first of its tasks that fits.
        model: From `open_model`.
        data: The data folder.
        choice: The row.

    Raises:
        UserError: The model's prompts are not those of the data; member, task or interaction are unknown; the member
            opted out, or has no rows after the cut.
    """
    bundle, split = benchmark_bundle(job, model, data), data.info.split
    suite = bundle.suite
    member, interaction = _member_of(data, choice), choice.interaction
    profile, rows, records = read_member(data, member)
    history, ids, times = records.history(rows), rows["interaction_id"].to_numpy(), micros(rows).to_numpy()
    tasks = [suite.task(name) for name in job.tasks] or suite.tasks
    if interaction is None:
        is_later = (times > split.benchmark_after) & (times <= split.until)
        index = _place(is_later, [past.surface for past in history], tasks, member, choice.row)
    else:
        found = np.flatnonzero(ids == interaction)
        if not len(found):
            raise UserError(
                f"member {member!r} has no interaction {interaction}. Give one of this member's interactions, or leave "
                f"out --member."
            )
        index = int(found[0])
    scored = history[index]
    task = _task(suite, tasks, scored.surface, int(ids[index]))
    before = scored.timestamp
    if job.protocol == "frozen":
        before = split.train_until + 1
        if scored.timestamp < before:
            raise UserError(
                f"interaction {ids[index]} is in the training period, so that a frozen history would show the row "
                f"itself. Use --history streaming, or a row after the cut."
            )
    row = PromptRow(task=task, profile=profile, history=history, candidate=scored.entity, before=before)
    variants = PromptVariants(bundle.compiler(job.history), row)
    outcomes = {action: outcome.name for outcome in suite.outcomes(task) for action in outcome.actions}
    return Explainer(
        member=member,
        version=load_version(version_folder(job, model, bundle), job.engine, job.history),
        variants=variants,
        outcome=outcomes.get(scored.action),
        origin={
            "model": model.name,
            "model digest": model.digest,
            "data": data.folder.name,
            "data digest": data.info.digest,
            "task": task.name,
            "member": hash_members([member])[0],
            "interaction": int(ids[index]),
            "surface": scored.surface,
            "time": iso_time(scored.timestamp),
            "action": scored.action,
            "history": f"{job.protocol}, {variants.compiler.policy(task).name}",
            "date": now(),
            "commit": source_commit(),
        },
        warnings=_warnings(variants, split, scored.timestamp, [other.name for other in suite.tasks_of(scored.surface)]),
        in_flight=job.batch.in_flight,
    )


def _member_of(data: DataFolder, choice: RowChoice) -> str:
    """Return the member of a row."""
    if choice.member is not None:
        return choice.member
    assert choice.interaction is not None
    rows = data.rows("interactions", "interaction_id", [choice.interaction])
    if not rows.num_rows:
        raise UserError(
            f"{data.folder} has no interaction {choice.interaction}. Give a row_id of the scored rows of `brew360 "
            f"benchmark run` on these data, or a member with --member."
        )
    return str(rows["member_id"][0].as_py())


def _place(
    is_later: np.ndarray, surfaces: Sequence[str], tasks: Sequence[TaskSpec], member: str, row: int | None
) -> int:
    """Return the place of a row after the cut in the member's history; the newest one without `row`."""
    names = {task.surface for task in tasks}
    places = [place for place in np.flatnonzero(is_later).tolist() if surfaces[place] in names]
    if not places:
        raise UserError(
            f"member {member!r} has no rows after the cut on {', '.join(sorted(names))}, so that a benchmark scores "
            f"none. Give another member or task, or an earlier row with --interaction."
        )
    if row is not None and row >= len(places):
        raise UserError(
            f"member {member!r} has {len(places):,} rows after the cut on {', '.join(sorted(names))}, but --row is "
            f"{row}. Give a number from 0 to {len(places) - 1}."
        )
    return int(places[-1 if row is None else row])


def _task(suite: TaskSuite, tasks: Sequence[TaskSpec], surface: str, interaction: int) -> TaskSpec:
    """Return the first task that scores a row of a surface."""
    for task in tasks:
        if task.surface == surface:
            return task
    fitting = ", ".join(task.name for task in suite.tasks_of(surface))
    raise UserError(
        f"interaction {interaction} is on surface {surface!r}, which {', '.join(task.name for task in tasks)} "
        f"{'does' if len(tasks) == 1 else 'do'} not predict. "
        + (f"Use --task with one of {fitting}." if fitting else "No task predicts it; give another interaction.")
    )


def _warnings(variants: PromptVariants, split: Split, time: int, tasks: Sequence[str]) -> list[str]:
    found = []
    if time <= split.train_until:
        found.append(
            "The row is in the training period: the model may have been trained on it, and no benchmark scores it."
        )
    elif time <= split.benchmark_after:
        found.append("The row is between training and benchmark, so that a benchmark does not score it.")
    elif time > split.until:
        found.append("The row is later than the end of the benchmark, which does not score it.")
    if not variants.shown:
        found.append("The prompt shows no history, so that only fields can be removed.")
    if len(tasks) > 1:
        others = ", ".join(name for name in tasks if name != variants.row.task.name)
        found.append(f"Other tasks on this surface: {others}; --task chooses one.")
    return found
