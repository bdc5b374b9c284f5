"""The text that a tokenizer is trained on."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from brew_data.pipelines.member_groups import read_shard
from brew_data.prompts.suite import TaskSuite
from brew_data.prompts.tasks import Surface, TaskSpec
from brew_data.prompts.tokenizer import Tokenizer, train_tokenizer
from brew_data.prompts.variation import FIRST, Variation, VariationConfig
from brew_data.records import Records
from brew_data.split import Split, hash_ids, hash_integers
from brew_data.table_shards import TableShards, table_files

__all__ = ["corpus_tokenizer"]

MOST_TURNS = 200_000  # about 8 million tokens; the trainer keeps distinct lines in memory, about 1 KB each
MOST_PROFILES = 50_000
INSTRUCTION_DRAWS = 32  # forms of each instruction, of which some can be equal


def corpus_tokenizer(
    tables_folder: Path,
    suite: TaskSuite,
    split: Split,
    vocabulary_size: int,
    *,
    merges: str = "lines",
    variation: VariationConfig | None = None,
    most_turns: int = MOST_TURNS,
) -> Tokenizer:
    """Train a tokenizer on the text of the training part.

    The corpus has each turn as often as it occurs, each profile once, and the instructions. It includes the answers, so
    label words become single tokens. Tasks and surfaces that training does not show are left out.

    Of more than `most_turns` interactions or `MOST_PROFILES` profiles, the corpus has about as many, chosen by a hash
    of their ids. Memory and time do not grow further.

    Args:
        tables_folder: The folder of the tables.
        suite: Renders the text.
        split: Only rows at or before its cut are read.
        vocabulary_size: The maximum number of ids.
        merges: Of `train_tokenizer`.
        variation: The forms of the text, as in training documents; None: the first forms.
        most_turns: The number of interactions from which the corpus is a sample.

    Returns:
        The tokenizer.

    Raises:
        UserError: A row has an unknown action or an entity of another type, or `vocabulary_size` is too small.
        DataError: The tables are missing or damaged.
    """
    shares = [
        min(1.0, most / max(1, sum(pq.read_metadata(file).num_rows for file in table_files(tables_folder, name))))
        for name, most in (("interactions", most_turns), ("members", MOST_PROFILES))
    ]

    def texts() -> Iterator[str]:
        for task in suite.tasks:
            if task.in_training:
                drawn = [variation.draw(task.name, i) for i in range(INSTRUCTION_DRAWS)] if variation else [FIRST]
                yield from sorted({suite.instruction(task, forms) for forms in drawn})
        for shard in range(TableShards.open(tables_folder).count):
            records, rows = read_shard(tables_folder, shard, until=split.train_until, surfaces=suite.trained_surfaces)
            chosen = _is_chosen(rows["interaction_id"].to_numpy().astype(np.uint64), shares[0])
            yield from _profiles(records, suite, shares[1])
            yield from _turns(records, rows.filter(pa.array(chosen)), suite, variation)

    return train_tokenizer(texts(), vocabulary_size=vocabulary_size, merges=merges)


def _profiles(records: Records, suite: TaskSuite, share: float) -> Iterator[str]:
    chosen = _is_chosen(hash_ids(records.profiles), share)
    for profile, is_chosen in zip(records.profiles.values(), chosen.tolist(), strict=True):
        if is_chosen:
            yield suite.profile_text(profile)


def _turns(records: Records, rows: pa.Table, suite: TaskSuite, variation: VariationConfig | None) -> Iterator[str]:
    """Yield questions and answers of interactions, in the forms that are drawn for their members."""

    @cache
    def sources(surface_name: str) -> list[TaskSpec | Surface]:
        tasks = [task for task in suite.tasks_of(surface_name) if task.in_training and not task.follows_surface]
        return [suite.surface(surface_name), *tasks]

    for member in records.members(rows):
        forms = variation.draw(member.member_id, 0) if variation else FIRST
        frame, answer = _renderers(suite, member.profile, forms)
        for past in member.history:
            entity_type = past.entity.entity_type
            suite.check_entity_type(suite.surface(past.surface), entity_type)
            text = suite.entities[entity_type].form(forms, f"entities.{entity_type}").render(past.entity.values)
            for source in sources(past.surface):
                before, after = frame(type(source), source.name, bool(text))
                yield f"{before}{text}{after}"
                yield answer(type(source), source.name, past.action)


def _renderers(
    suite: TaskSuite, profile: dict[str, str], forms: Variation
) -> tuple[Callable[[type, str, bool], tuple[str, str]], Callable[[type, str, str], str]]:
    """Return functions that render frames of questions, and answers, once per member."""

    def source_of(kind: type, name: str) -> TaskSpec | Surface:
        return suite.surface(name) if kind is Surface else suite.task(name)

    @cache
    def frame(kind: type, name: str, has_entity: bool) -> tuple[str, str]:
        return suite.question_frame(source_of(kind, name), profile, has_entity=has_entity, variation=forms)

    @cache
    def answer(kind: type, name: str, action: str) -> str:
        source = source_of(kind, name)
        owner = source if isinstance(source, Surface) or source.outcomes is not None else suite.surface(source.surface)
        labels = suite.label_forms(source)[suite.label_form(owner, forms)]
        if isinstance(source, Surface):
            source.label(action)  # raises for an unknown action
            return labels[[item.name for item in source.actions].index(action)]
        return labels[[item.name for item in suite.outcomes(source)].index(suite.outcome(source, action).name)]

    return frame, answer


def _is_chosen(key_N: np.ndarray, share: float) -> np.ndarray:
    """Return whether rows with these keys, uint64, belong to a sample, bool."""
    return (hash_integers(key_N) >> np.uint64(11)).astype(np.float64) / 2**53 < share
