"""The check of a data set before it is built: all problems at once."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brew_cluster.cli.views.table import make_table
from brew_cluster.jobs.build_inputs import BuildInputs, read_inputs
from brew_cluster.jobs.dataset_config import DatasetConfig
from brew_data.corpora.conversations import conversation_files
from brew_data.entity_index import EntityIndex
from brew_data.privacy.config import PrivacyConfig
from brew_data.privacy.report import Removals
from brew_data.privacy.table_privacy import PrivacyStage
from brew_data.problems import Problem
from brew_data.prompts.compiler import PromptCompiler
from brew_data.prompts.suite import TaskSuite
from brew_data.prompts.tokenizer import Tokenizer
from brew_data.schema import check_rows, micros
from brew_data.sources.base import Source, has_batches, open_source, read_batches, reads_rows
from brew_data.sources.quarantine import Quarantine
from brew_data.split import Split, SplitConfig, are_in_part, hash_ids
from brew_data.table_checks import TableChecks
from brew_data.table_shards import TableShards, table_files
from brew_data.table_writer import TableWriter, WrittenTables
from brew_eval.gates import validate_gates
from brew_platform.console.plain_console import PlainConsole
from brew_platform.errors import BrewError, DataError, UserError

__all__ = ["EVALUATION_MEMBERS", "HELD_OUT", "TRAINING_MEMBERS", "DatasetCheck", "check_dataset", "print_check"]

HELD_OUT = 0.05  # share of the members who are only evaluated on
EVALUATION_MEMBERS, TRAINING_MEMBERS = (0.0, HELD_OUT), (HELD_OUT, 1.0)


@dataclass(kw_only=True)
class DatasetCheck:
    """What was found, and what was read on the way; None where a problem prevented it."""

    problems: list[Problem] = field(default_factory=list)
    quarantine: Quarantine
    suite: TaskSuite | None = None
    source: Source | None = None
    inputs: BuildInputs | None = None  # of tables that are kept, as they were before they were read
    written: WrittenTables | None = None  # the tables, cleaned
    checks: TableChecks = field(default_factory=TableChecks)  # what the tables contain
    removed: Removals = field(default_factory=dict)  # for privacy
    opted_out: frozenset[str] = frozenset()  # ids of the members who opted out, as the tables name members
    split: Split | None = None
    tokenizer: Tokenizer | None = None  # of a base model; None: it is trained later

    @property
    def errors(self) -> list[Problem]:
        """The problems that prevent the build."""
        return [problem for problem in self.problems if problem.is_error]

    def require_good(self) -> None:
        """Check that nothing prevents the build.

        Raises:
            DataError: Something does; the message has the first problem and the number of all.
        """
        if not self.errors:
            return
        first, *others = self.errors
        count = "" if first.count is None else f" ({_rows(first.count)}{_examples(first)})"
        more = f" `brew360 data validate` lists {len(others)} more." if others else ""
        raise DataError(f"{first.message}{count}{more}")


def check_dataset(
    config: DatasetConfig,
    *,
    tables_folder: Path | None = None,
    quarantine_folder: Path | None = None,
    held_out: bool = True,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> DatasetCheck:
    """Read the tables, write them, and check everything that can be checked before prompts are compiled.

    Args:
        config: The recipe.
        tables_folder: Receives the tables; None: they are deleted after the check.
        quarantine_folder: Receives the rows that the source leaves out; None: they are only counted.
        held_out: Whether bins for evaluation and preference pairs are to be made.
        on_rows: Called with the number of rows that were read so far.
    """
    # A quarantined row as it was read would show what pseudonyms hide.
    has_values = config.privacy.pseudonyms is None
    check = DatasetCheck(quarantine=Quarantine(quarantine_folder, on_rows=on_rows, has_values=has_values))
    problems = check.problems
    with _collect(problems, "suite"):
        check.suite = config.load_suite()
    with _collect(problems, "tokenizer"):
        if config.tokenizer.from_ is not None:
            check.tokenizer = Tokenizer.from_model(config.tokenizer.from_)
            problems += _context_problems(Path(config.tokenizer.from_), config.prompt.context_length)
            if check.suite is not None:
                PromptCompiler(check.suite, check.tokenizer, config.prompt)
    with _collect(problems, "corpora"):
        for corpus in config.corpora.values():
            for source in corpus.sources.values():
                if source.path is not None:
                    conversation_files(Path(source.path))
    with _collect(problems, "source"):
        path = None if config.path is None else Path(config.path)
        check.source = open_source(config.source, config.source_config, path)
    if check.source is None:
        return check
    with _collect(problems, "release"):
        if check.suite is not None:
            tasks = [task.name for task in check.suite.tasks]
            truth = check.source.has_true_probabilities
            validate_gates(config.release.gates, tasks, has_true_probabilities=truth)
    if reads_rows(check.source) and (found := check.source.find_problems()):
        problems += found
        return check
    with ExitStack() as stack:
        folder = tables_folder or Path(stack.enter_context(TemporaryDirectory()))
        with _collect(problems, "source"):
            if tables_folder is not None and check.suite is not None:
                check.inputs = read_inputs(config, check.source, check.suite)
            check.written = _write_tables(check, check.source, config.privacy, folder, on_rows)
        if found := _quarantine_problems(check.quarantine, config.quarantine.max_share):
            problems[:] = [problem for problem in problems if "break the schema" not in problem.message] + found
        if check.written is not None:
            with _collect(problems, "split"):
                check.split = _find_split(folder, check.written, config.split)
            _check_shards(check, config, folder, held_out=held_out)
    return check


def print_check(check: DatasetCheck, console: PlainConsole) -> None:
    """Print what was read, the share of absent values, and the problems."""
    quarantine = check.quarantine
    if (written := check.written) is not None:
        rows = make_table("table", "rows", "quarantined", title="Tables", right=["rows", "quarantined"])
        for name in ("members", "entities", "interactions"):
            rows.add_row(name, f"{written.rows[name]:,}", f"{quarantine.total(name):,}")
        console.print(rows)
        fields = make_table("field", "absent", title="Fields", right=["absent"])
        for name, share in check.checks.null_shares().items():
            fields.add_row(name, f"{share:.1%}")
        if fields.row_count:
            console.print(fields)
    for name, kinds in check.removed.items():
        for kind, changed in kinds.items():
            console.print(f"removed: {name}: {_rows(changed)}: {kind}", style="yellow")
    for table, reasons in quarantine.counts().items():
        for reason, rows_of_reason in reasons.items():
            examples = "; ".join(quarantine.examples[table, reason])
            console.print(f"quarantined: {table}: {_rows(rows_of_reason)}: {reason} ({examples})", style="yellow")
    for problem in check.problems:
        kind, style = ("error", "red") if problem.is_error else ("warning", "yellow")
        count = "" if problem.count is None else f" ({_rows(problem.count)}{_examples(problem)})"
        console.print(f"{kind}: {problem.table}: {problem.message}{count}", style=style)


def _rows(count: int) -> str:
    return f"{count:,} row{'s' * (count != 1)}"


def _examples(problem: Problem) -> str:
    return f", e.g. {'; '.join(problem.examples)}" if problem.examples else ""


@contextmanager
def _collect(problems: list[Problem], table: str) -> Iterator[None]:
    """Turn an error of the block into a problem."""
    try:
        yield
    except BrewError as error:
        problems.append(Problem(table=table, message=str(error)))


def _context_problems(model: Path, context_length: int) -> list[Problem]:
    """Compare the context of a base model with that of the prompts; a folder of a tokenizer only has no context."""
    try:
        settings = json.loads((model / "config.json").read_text())
        longest = int(settings.get("text_config", settings)["max_position_embeddings"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # training checks the model's own files
        return []
    if longest >= context_length:
        return []
    message = (
        f"the model in {model} reads at most {longest:,} tokens, but prompt.context_length is {context_length:,}. "
        f"Lower it, or use another model."
    )
    return [Problem(table="tokenizer", message=message)]


def _quarantine_problems(quarantine: Quarantine, max_share: float) -> list[Problem]:
    try:
        quarantine.require_share(max_share)
    except DataError as error:
        return [Problem(table="quarantine", message=str(error))]
    return []


def _write_tables(
    check: DatasetCheck, source: Source, privacy: PrivacyConfig, folder: Path, on_rows: Callable[[int], None]
) -> WrittenTables:
    """Read the tables of a source in batches, make them private, and write them."""
    is_checked = not has_batches(source)  # `Tables` checks itself, and the writer what is left of it
    writer = TableWriter(folder)
    stage = PrivacyStage(privacy, check.removed)
    counts: Counter[str] = Counter()
    for name, rows in read_batches(source, check.quarantine):
        if not is_checked:
            check_rows(name, rows, first=counts[name])  # as the source wrote them
        counts[name] += rows.num_rows
        private = stage.apply(name, rows)
        check.checks.add(name, private)
        writer.write(name, private)
        if not is_checked:
            on_rows(counts.total())
    check.quarantine.remove_rows_of(stage.opted_out)
    check.opted_out = stage.opted_out
    return writer.finish()


def _find_split(folder: Path, written: WrittenTables, config: SplitConfig) -> Split:
    """Compute the split. All times are read only where their order counts, 8 bytes for each interaction."""
    if written.earliest is None or written.latest is None:
        raise UserError("there are no interactions to split. Check the source.")
    if config.train_share is None and not config.validation:
        return Split.of(np.array([written.earliest, written.latest]), config)
    files = table_files(folder, "interactions")
    times = [micros(pq.read_table(file, columns=["timestamp"])).to_numpy() for file in files]
    return Split.of(np.sort(np.concatenate(times)), config)


def _check_shards(check: DatasetCheck, config: DatasetConfig, folder: Path, *, held_out: bool) -> None:
    """Compare the tables with the suite, and count the training rows of both parts of the members."""
    suite, split = check.suite, check.split
    if suite is None:
        return
    shards, entities = TableShards.open(folder), EntityIndex(folder)
    parts = _PartCounts(suite)
    for shard in range(shards.count):
        rows = shards.read("interactions", shard)
        ids = pc.unique(rows["entity_id"]).to_pylist()
        check.checks.add_shard(rows, entities.take(ids, ["entity_id", "entity_type"]))
        if held_out and split is not None:
            parts.add(shards.read("members", shard), rows.filter(pc.less_equal(micros(rows), split.train_until)))
    check.problems += check.checks.problems(suite)
    if held_out and split is not None:
        check.problems += parts.problems(config.pairs)


class _PartCounts:
    """Counts the training rows of the members who are trained on, and of those who are only evaluated on."""

    def __init__(self, suite: TaskSuite) -> None:
        self._tasks = Counter(task.surface for task in suite.tasks if task.in_training)
        self._available = {True: 0, False: 0}  # rows times tasks, by whether the member is only evaluated on
        self._members = 0

    def add(self, members: pa.Table, rows: pa.Table) -> None:
        """Read the members of a shard and their training rows."""
        taking_part = members.filter(pc.invert(members["opted_out"]))["member_id"].combine_chunks()
        rows = rows.filter(pc.is_in(rows["member_id"], value_set=taking_part))
        encoded = rows["member_id"].combine_chunks().dictionary_encode()
        evaluated = are_in_part(hash_ids(encoded.dictionary.to_pylist()), EVALUATION_MEMBERS)
        surfaces = rows["surface"].combine_chunks().dictionary_encode()
        weights = np.array([self._tasks[name] for name in surfaces.dictionary.to_pylist()], int)
        weight_of_row = weights[surfaces.indices.to_numpy()]
        is_evaluated = evaluated[encoded.indices.to_numpy()]
        self._members += len(evaluated)
        self._available[True] += int(weight_of_row[is_evaluated].sum())
        self._available[False] += int(weight_of_row[~is_evaluated].sum())

    def problems(self, pairs: int) -> list[Problem]:
        """Check that both parts have enough training rows."""
        return _part_problems(self._available, self._members, pairs)


def _part_problems(available: Mapping[bool, int], members: int, pairs: int) -> list[Problem]:
    if not members:
        return [Problem(table="interactions", message="no member has training rows. Move the split.")]
    if not available[True] or not available[False]:
        part = "evaluation" if not available[True] else "training"
        message = (
            f"no member of the {part} part has training rows: {HELD_OUT:.0%} of the members, chosen by their id, are "
            f"held out for evaluation, and {members} members with training rows are too few. Use 100 or more."
        )
        return [Problem(table="members", message=message)]
    needed = {True: max(1, round(HELD_OUT * pairs)), False: pairs - max(1, round(HELD_OUT * pairs))} if pairs else {}
    if any(needed[part] > available[part] for part in needed):
        most = min(int(available[True] / HELD_OUT), int(available[False] / (1 - HELD_OUT)))
        message = (
            f"pairs is {pairs:,}, but the training rows allow about {most:,} preference pairs. Set pairs to that or "
            f"less; 0 makes none, and only DPO and ORPO need them."
        )
        return [Problem(table="interactions", message=message)]
    return []
