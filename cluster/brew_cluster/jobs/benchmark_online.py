"""`brew360 benchmark online`: evaluates the versions of a service from its logged answers and later events."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brew_cluster.cli.views.benchmark_online import show_online
from brew_cluster.jobs.benchmark_report import rows_path
from brew_data.data_folder import DATASET_FILE, DataFolder
from brew_data.privacy.pseudonyms import Pseudonyms
from brew_data.schema import TIMESTAMP, read_table
from brew_eval.answers import attribute_interactions, read_answers, received_answers, versions_of
from brew_eval.compare import Comparison, compare
from brew_eval.evaluation import evaluate
from brew_eval.measurement import EvaluationConfig
from brew_eval.online import EVENTS, count_known, join_events
from brew_eval.report.files import require_json_path, write_comparison, write_report
from brew_eval.report.report import Report
from brew_eval.scored_rows import ScoredRows, ScoredRowsInfo
from brew_platform.console.plain_console import PlainConsole
from brew_platform.errors import DataError, UserError
from brew_platform.files import replace_atomically
from brew_platform.provenance import now, source_commit
from brew_platform.storage.base import open_store

__all__ = ["OnlineArm", "OnlineEvaluation", "evaluate_online", "read_events", "write_online"]

FORMAT_VERSION = 1  # of the summary
_INTERACTIONS = ("member_id", "entity_id", "surface", "action", "timestamp")


@dataclass(frozen=True, kw_only=True)
class OnlineArm:
    """One version in one role.

    Args:
        role: production, canary or shadow.
        version: Its number.
        rows: Its scored rows, with the labels that are known.
        report: Their evaluation.
        joined: Rows with an event within the window.
        unjoined: Rows whose window has passed without an event; their label is negative.
        too_young: Rows whose window is still open; they have no label, and are in no figure.
    """

    role: str
    version: int
    rows: ScoredRows
    report: Report
    joined: int
    unjoined: int
    too_young: int

    @property
    def name(self) -> str:
        """Its name in files and tables."""
        return f"{self.role}-{self.version}"


@dataclass(frozen=True, kw_only=True)
class OnlineEvaluation:
    """The evaluation of live traffic.

    Args:
        arms: The versions by role.
        comparisons: Each shadow with each version that answered the same requests, by their names; paired.
        window: Microseconds after an answer in which an event counts.
        until: Microseconds since 1970; all events up to this time are known.
        replaced: As `ReceivedAnswers`.
        not_received: As `ReceivedAnswers`.
        events: Number of events.
        known_events: Number of events of logged requests.
    """

    arms: list[OnlineArm]
    comparisons: dict[tuple[str, str], Comparison]
    window: int
    until: int
    replaced: int
    not_received: int
    events: int
    known_events: int


def read_events(path: Path) -> pa.Table:
    """Read events.

    Args:
        path: A Parquet file, or a folder of them, with the columns `EVENTS`; or interactions, as a data folder or a
            folder of tables.

    Returns:
        Columns `EVENTS`, or those of interactions.

    Raises:
        DataError: There are no such files, or they have neither columns.
    """
    folder = path / "tables" if (path / DATASET_FILE).is_file() else path
    if (folder / "interactions.parquet").is_file() or (folder / "interactions").is_dir():
        return read_table(folder, "interactions").select(_INTERACTIONS)
    files = [path] if path.is_file() else sorted(path.glob("[!._]*.parquet"))
    if not files:
        raise DataError(f"{path} has no events. Pass a Parquet file, a folder of them, or a data folder.")
    try:
        schema = pq.read_schema(files[0])
        for columns in (EVENTS, _INTERACTIONS):
            if set(columns) <= set(schema.names):
                return pa.concat_tables([pq.read_table(file, columns=list(columns)) for file in files])
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path} cannot be read as events ({error}). Pass Parquet files of one schema.") from error
    raise DataError(
        f"{files[0]} has the columns {', '.join(schema.names)}, but events need {', '.join(EVENTS)}, and interactions "
        f"{', '.join(_INTERACTIONS)}."
    )


def evaluate_online(
    answers: str,
    events: pa.Table,
    data: DataFolder,
    *,
    window: int,
    until: int | None = None,
    versions: Sequence[int] = (),
    key: Pseudonyms | None = None,
    config: EvaluationConfig | None = None,
) -> OnlineEvaluation:
    """Join the logged answers with events, and evaluate each version.

    Args:
        answers: The store of the log (`answer_log.url`).
        events: Of `read_events`.
        data: Its suite says which actions are positive, and its members have the locales.
        window: Microseconds after an answer in which an event counts.
        until: All events up to this time are there, microseconds since 1970; None: the time of the latest event.
        versions: Only these; (): all.
        key: The key of the log, `answer_log.key`; None: events and data contain its hashes.
        config: Settings of the evaluation.

    Raises:
        UserError: There are no answers, no events, or none of a version; no event is of a logged request; or the
            members of the data have pseudonyms of another key.
        StorageError: The log cannot be read.
    """
    received = received_answers(read_answers(open_store(answers)))
    if not events.num_rows:
        raise UserError("there are no events, so no label is known. Pass the events that followed the answers.")
    until = _latest(events) if until is None else until
    table = _with_locales(received.table, data, key)
    events_of_log = _as_events(events, table, data, key)
    known = count_known(table, events_of_log)
    if not known:
        raise UserError(
            f"none of the {events.num_rows:,} events is of a logged answer, so no label is known. Pass the events of "
            f"the requests that were logged, with their x-request-id, and the key of the log (answer_log.key)."
        )
    found = [(role, version) for role, version in versions_of(table) if not versions or version in versions]
    if missing := sorted(set(versions) - {version for _, version in found}):
        raise UserError(f"the log has no answers of version {missing[0]}. Leave out --version to see those it has.")
    suite = data.bundle().suite
    tasks = pc.unique(table["task"]).to_pylist()
    if unknown := sorted(set(tasks) - {task.name for task in suite.tasks}):
        raise UserError(
            f"the log has answers of the task {unknown[0]!r}, which the suite of {data.folder} lacks. Pass data of the "
            f"versions that answered."
        )
    arms = []
    for role, version in found:
        of_arm = pc.and_(pc.equal(table["role"], role), pc.equal(table["version"], version))
        info = ScoredRowsInfo(
            model=f"version {version} ({role})",
            version=version,
            suite=suite.name,
            data_digest=data.info.digest,
            commit=source_commit(),
            date=now(),
        )
        positive = {task.name: suite.positive_actions(task) for task in suite.tasks}
        rows = join_events(table.filter(of_arm), events_of_log, info, positive=positive, window=window, until=until)
        arms.append(_arm(role, version, rows, config))
    return OnlineEvaluation(
        arms=arms,
        comparisons=_compare_shadows(arms, config),
        window=window,
        until=until,
        replaced=received.replaced,
        not_received=received.not_received,
        events=events.num_rows,
        known_events=known,
    )


def write_online(evaluation: OnlineEvaluation, path: Path, console: PlainConsole) -> None:
    """Write the reports, and print their figures.

    Args:
        evaluation: Of `evaluate_online`.
        path: Receives the summary as JSON. The reports, comparisons and scored rows get its name and that of the
            version, e.g. report-production-7.json, .md, .html and .parquet.
        console: Receives the tables.

    Raises:
        UserError: The path is a folder, or does not end in .json.
    """
    require_json_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    summary = {
        "format_version": FORMAT_VERSION,
        **{name: getattr(evaluation, name) for name in ("window", "until", "replaced", "not_received")},
        **{name: getattr(evaluation, name) for name in ("events", "known_events")},
        "versions": [],
        "comparisons": [],
    }
    for arm in evaluation.arms:
        file = path.with_name(f"{path.stem}-{arm.name}.json")
        write_report(arm.report, file)
        arm.rows.write(rows_path(file))
        counts = {name: getattr(arm, name) for name in ("role", "version", "joined", "unjoined", "too_young")}
        summary["versions"].append(counts | {"report": file.name})
    for (live, shadow), comparison in evaluation.comparisons.items():
        file = path.with_name(f"{path.stem}-{live}-and-{shadow}.json")
        write_comparison(comparison, file)
        summary["comparisons"].append({"versions": [live, shadow], "report": file.name})
    replace_atomically(path, json.dumps(summary, indent=2) + "\n")
    show_online(console, evaluation)
    console.print(f"report: {path}")


def _arm(role: str, version: int, rows: ScoredRows, config: EvaluationConfig | None) -> OnlineArm:
    is_young = rows.table["label"].is_null()
    joined = pc.sum(pc.and_(pc.invert(is_young), rows.table["outcome"].is_valid()), min_count=0).as_py()
    young = is_young.to_numpy().sum()
    return OnlineArm(
        role=role,
        version=version,
        rows=rows,
        report=evaluate(rows, config=config),
        joined=int(joined),
        unjoined=len(rows) - int(joined) - int(young),
        too_young=int(young),
    )


def _compare_shadows(arms: Sequence[OnlineArm], config: EvaluationConfig | None) -> dict[tuple[str, str], Comparison]:
    """Compare each shadow with each version that answered the same requests."""
    comparisons = {}
    for shadow in (arm for arm in arms if arm.role == "shadow"):
        for live in (arm for arm in arms if arm.role != "shadow"):
            common = np.intersect1d(live.rows.column("row_id"), shadow.rows.column("row_id"))
            a, b = (arm.rows.select(np.isin(arm.rows.column("row_id"), common)) for arm in (live, shadow))
            if np.isfinite(a.column("label")).any():
                comparisons[live.name, shadow.name] = compare(a, b, config)
    return comparisons


def _as_events(events: pa.Table, answers: pa.Table, data: DataFolder, key: Pseudonyms | None) -> pa.Table:
    """Return events with the ids of the log; those without request ids are attributed to answers."""
    entities = _hashed(events["entity_id"], None if key is None else key.of_entity)
    if "request_id" in events.column_names:
        return events.set_column(events.column_names.index("entity_id"), "entity_id", entities)
    columns = {name: events[name] for name in ("surface", "action")}
    columns |= {"member": _members(events["member_id"], data, key), "entity_id": entities}
    return attribute_interactions(
        pa.table(columns | {"time": events["timestamp"].cast(TIMESTAMP).cast(pa.int64())}), answers
    )


def _with_locales(answers: pa.Table, data: DataFolder, key: Pseudonyms | None) -> pa.Table:
    """Return the answers with the locales of the members of the data, where the log has none."""
    members = read_table(data.tables_folder, "members")
    try:
        hashes = _members(members["member_id"], data, key)
    except UserError:
        return answers
    place = pc.index_in(answers["member"], value_set=hashes.combine_chunks())
    locale = pc.coalesce(answers["locale"], members["locale"].take(place))
    return answers.set_column(answers.column_names.index("locale"), "locale", locale)


def _members(ids: pa.ChunkedArray, data: DataFolder, key: Pseudonyms | None) -> pa.ChunkedArray:
    """Return the hashes of member ids that the log has.

    Raises:
        UserError: The members of the data have pseudonyms of another key.
    """
    if data.info.key_id is None:
        return _hashed(ids, None if key is None else key.of)
    if key is not None and key.key_id != data.info.key_id:
        raise UserError(
            f"the members of {data.folder} have pseudonyms of another key than the log, so their interactions cannot "
            f"be joined. Log with the key of the data (answer_log.key), or pass events with request ids."
        )
    return ids  # pseudonyms and the hashes of the log are the same function of id and key


def _hashed(ids: pa.ChunkedArray, function: Callable[[str], str] | None) -> pa.ChunkedArray:
    """Return the hashes of ids; the ids themselves without a function."""
    if function is None:
        return ids
    encoded = ids.combine_chunks().dictionary_encode()
    hashes = pa.array([function(id_) for id_ in encoded.dictionary.to_pylist()], pa.string())
    return pa.chunked_array([hashes.take(encoded.indices)])


def _latest(events: pa.Table) -> int:
    """Return the time of the last event, microseconds since 1970."""
    time = pc.max(events["time"] if "time" in events.column_names else events["timestamp"])
    return int(time.cast(TIMESTAMP).cast(pa.int64()).as_py() if pa.types.is_timestamp(time.type) else time.as_py())
