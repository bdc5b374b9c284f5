"""The job of `brew360 data pairs`: a served model answers instructions about a data set, and a judge ranks them."""

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import httpx

from brew_cluster.jobs.dataset_check import TRAINING_MEMBERS
from brew_data.corpora.answer_file import AnswerFile
from brew_data.corpora.answer_pairs import (
    AnswerConfig,
    Judge,
    ModelJudge,
    RankedAnswers,
    RuleJudge,
    rank_answers,
    write_pairs,
)
from brew_data.corpora.answer_rules import Instruction
from brew_data.corpora.chat_model import ChatModel, EndpointConfig
from brew_data.corpora.task_instructions import task_instructions
from brew_data.data_folder import DataFolder
from brew_data.pipelines.member_groups import read_members
from brew_data.table_shards import TableShards
from brew_platform.config import load_config
from brew_platform.console.plain_console import PlainConsole
from brew_platform.console.progress import Phases
from brew_platform.errors import UserError
from brew_platform.files import replace_atomically
from brew_platform.provenance import now
from brew_platform.settings import PositiveInt

__all__ = ["PairsJob", "load_pairs", "make_pairs", "print_pairs"]

PAIRS, ANSWERS, SUMMARY = "pairs.jsonl", "answers.jsonl", "summary.json"
FORMAT_VERSION = 1  # of the summary


@dataclass(frozen=True, kw_only=True)
class PairsJob(AnswerConfig):
    """The settings of `brew360 data pairs`. Keys of endpoints are not settings."""

    instructions: PositiveInt = 1_000  # the largest number; more of them continue a finished run
    per_member: PositiveInt = 1  # the largest number of instructions about one member
    judge: EndpointConfig | None = None  # a model that rates the answers; null: the rules rank them


def load_pairs(recipe: Path | None, overrides: Sequence[str]) -> PairsJob:
    """Load the settings of a job.

    Args:
        recipe: A YAML file; None: the defaults.
        overrides: `key=value`.

    Raises:
        ConfigError: A setting is unknown, has the wrong type, or is missing.
    """
    return load_config(PairsJob, *([] if recipe is None else [recipe]), overrides=overrides)


def make_pairs(
    job: PairsJob,
    data: DataFolder,
    out: Path,
    phases: Phases,
    *,
    key: str | None = None,
    judge_key: str | None = None,
) -> dict[str, Any]:
    """Write preference pairs from the answers of a served model.

    Args:
        job: The settings.
        data: The instructions are about interactions before its cut, of the members that are trained on.
        out: Receives `answers.jsonl` with every answer, `pairs.jsonl` and `summary.json`. Answers that it has are not
            requested again.
        phases: Shows progress; its phase is `answers`.
        key: The key of the endpoint.
        judge_key: The key of the judge's endpoint; None: `key` if it is the same endpoint.

    Returns:
        The content of `summary.json`.

    Raises:
        UserError: There is nothing to ask about, the folder has answers of other settings, or an endpoint refuses.
        BrewError: An endpoint does not answer. The same call continues.
    """
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs every request
    out.mkdir(parents=True, exist_ok=True)
    with AnswerFile.open(out / ANSWERS, _identity(job, data)) as kept:
        finished, counts = asyncio.run(_rank(job, data, kept, phases, key, judge_key))
    rows = [pair for ranked in finished if (pair := ranked.pair(job.least_margin)) is not None]
    write_pairs(rows, out / PAIRS)
    summary = _summary(job, data, finished, rows) | counts
    replace_atomically(out / SUMMARY, json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    return summary


def _identity(job: PairsJob, data: DataFolder) -> dict[str, object]:
    """Return what answers and scores depend on. Addresses do not count, because a service can be started elsewhere."""
    return {
        "data": data.info.digest,
        "model": job.model,
        "most_tokens": job.most_tokens,
        "temperature": job.temperature,
        "per_member": job.per_member,
        "judge.model": None if job.judge is None else job.judge.model,
    }


async def _rank(
    job: PairsJob, data: DataFolder, kept: AnswerFile, phases: Phases, key: str | None, judge_key: str | None
) -> tuple[list[RankedAnswers], dict[str, int]]:
    """Return the ranked answers, and the numbers of requests that this run sent."""
    # `concurrency` limits the requests, so the client needs no limit of its own.
    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=None)) as client:
        models = [ChatModel(job, client, key=key)]
        judge: Judge = RuleJudge()
        if job.judge is not None:
            if judge_key is None and job.judge.url == job.url:
                judge_key = key
            models.append(ChatModel(job.judge, client, key=judge_key))
            judge = ModelJudge(models[-1], kept)
        with phases.phase("answers", total=job.instructions, unit="instructions") as progress:
            done = pairs = 0

            def on_progress(ranked: RankedAnswers) -> None:
                nonlocal done, pairs
                done, pairs = done + 1, pairs + (ranked.pair(job.least_margin) is not None)
                progress.update(done, pairs=pairs, retries=sum(model.retries for model in models))

            instructions = islice(_instructions(job, data), job.instructions)
            finished = await rank_answers(instructions, models[0], judge, kept, job, on_progress=on_progress)
            progress.update(done, total=done)
    if not finished:
        raise UserError(
            f"{data.folder} has no interaction on a trained surface before the cut, so there is nothing to ask about. "
            f"Use another data set."
        )
    return finished, {
        "requests": sum(model.requests for model in models),
        "retries": sum(model.retries for model in models),
    }


def _instructions(job: PairsJob, data: DataFolder) -> Iterator[Instruction]:
    """Yield instructions about the members that are trained on, in the order of a hash of their ids."""
    compiler, tables = data.bundle().compiler(), data.tables_folder
    surfaces = compiler.suite.trained_surfaces
    for shard in TableShards.open(tables).of_part(TRAINING_MEMBERS):
        members = read_members(
            tables, shard, until=data.info.split.train_until, members=TRAINING_MEMBERS, surfaces=surfaces
        )
        yield from task_instructions(members, compiler, per_member=job.per_member)


def _summary(
    job: PairsJob, data: DataFolder, finished: Sequence[RankedAnswers], rows: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    tasks = Counter(_task(ranked.instruction.id) for ranked in finished)
    with_pair = Counter(_task(row["id"]) for row in rows)
    scores = [score for ranked in finished for score, _ in ranked.answers]
    return {
        "format_version": FORMAT_VERSION,
        "date": now(),
        "data": data.info.digest,
        "model": job.model,
        "judge": "rules" if job.judge is None else job.judge.model,
        "instructions": len(finished),
        "answers": job.answers * len(finished),
        "different_answers": len(scores),
        "cut_answers": sum(ranked.cut for ranked in finished),
        "pairs": len(rows),
        "mean_score": _mean(scores),
        "mean_score_chosen": _mean([row["score_chosen"] for row in rows]),
        "mean_score_rejected": _mean([row["score_rejected"] for row in rows]),
        "tasks": {name: {"instructions": count, "pairs": with_pair[name]} for name, count in sorted(tasks.items())},
    }


def _task(id_: str) -> str:
    return id_.partition("/")[0]


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None


def print_pairs(summary: dict[str, Any], job: PairsJob, out: Path, console: PlainConsole) -> None:
    """Print what was written, and what can be improved."""
    console.print(
        f"{summary['instructions']:,} instructions, {summary['answers']:,} answers, {summary['pairs']:,} pairs; "
        f"{summary['requests']:,} requests in this run"
    )
    if summary["pairs"]:
        console.print(
            f"mean score: {summary['mean_score']:.2f} of all answers, {summary['mean_score_chosen']:.2f} of chosen, "
            f"{summary['mean_score_rejected']:.2f} of rejected ones"
        )
    if without := summary["instructions"] - summary["pairs"]:
        console.print(
            f"{without:,} instructions have no pair: their answers are equal, or the scores differ by less than "
            f"least_margin={job.least_margin:g}. More answers or a higher temperature give more pairs."
        )
    if summary["cut_answers"]:
        console.print(f"{summary['cut_answers']:,} answers did not end within most_tokens={job.most_tokens}")
    console.print(f"pairs: {out / PAIRS}; all answers: {out / ANSWERS}; figures: {out / SUMMARY}")
