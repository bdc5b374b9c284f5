"""Packs preference pairs into bins, for DPO and ORPO.

A pair becomes two documents of one bin, each the prompt followed by an answer. Document 2k of a bin has the chosen
answer, document 2k + 1 the rejected one. Roles are 1 on the answers only. An answer from a file ends with `<|end|>`,
because the model must learn to stop. An answer from the interactions table is that of `PromptCompiler.labels`, as in
training documents, where another turn can follow.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brew_data.corpora.preference_file import Preference, read_preferences
from brew_data.packed_bins.packing import pack
from brew_data.packed_bins.plan import BinsPlan
from brew_data.packed_bins.schema import BINS_PER_FILE, finish_plan, start_folder, write_file
from brew_data.prompts.budget import NOTHING_CUT, Cut
from brew_data.prompts.bundle import PromptBundle
from brew_data.prompts.chat import head_ids, question_ids
from brew_data.prompts.compiler import PastInteraction, PromptCompiler
from brew_data.prompts.tasks import TaskSpec
from brew_data.prompts.tokenizer import Tokenizer
from brew_data.records import Records
from brew_data.schema import Tables, micros
from brew_data.split import EVERYONE, Split, is_in_part
from brew_platform.errors import UserError

__all__ = ["Pair", "PairsPlan", "build_pairs", "compile_preference", "pairs_from_interactions"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """One prompt and two answers, as token ids (int32 [tokens]), and what was cut from the prompt."""

    prompt: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray
    origin: str  # for error messages
    cut: Cut = NOTHING_CUT
    turns_dropped: int = 0

    @property
    def length(self) -> int:
        """Tokens of both documents together."""
        return 2 * len(self.prompt) + len(self.chosen) + len(self.rejected)


@dataclass(frozen=True, kw_only=True)
class PairsPlan(BinsPlan):
    """The contents of `plan.json` in a folder of packed pairs."""

    kind: str = "pairs"
    n_pairs: int
    n_skipped: int  # pairs that were left out because they exceed a bin


def compile_preference(preference: Preference, tokenizer: Tokenizer) -> Pair:
    """Encode a row of a file in the layout of a chat.

        <|system|> instruction <|member|> profile <|user|> prompt <|assistant|> answer <|end|>

    The texts are encoded without control tokens, so they cannot forge a turn.

    Args:
        preference: The row.
        tokenizer: The tokenizer of the model to train.

    Returns:
        The encoded pair.
    """
    t = tokenizer
    head = head_ids(t, t.encode(preference.instruction), t.encode(preference.profile))
    return Pair(
        prompt=_ids((*head, *question_ids(t, t.encode(preference.prompt, cached=False)))),
        chosen=_ids((*t.encode(preference.chosen, cached=False), t.end)),
        rejected=_ids((*t.encode(preference.rejected, cached=False), t.end)),
        origin=preference.origin,
    )


def build_pairs(
    pairs: Path | Sequence[Pair],
    compiler: PromptCompiler,
    out: Path,
    *,
    skip_long: bool = False,
    bins_per_file: int = BINS_PER_FILE,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> PairsPlan:
    """Pack pairs best-fit and write them as bins, with the same columns as bins of documents.

    This runs in one process, because pairs are small compared to the tables: 60,000 pairs of 1,000 tokens take 240 MB
    of memory.

    Args:
        pairs: A file that `read_preferences` reads, or a list of pairs.
        compiler: Provides the tokenizer; its context length is the capacity of a bin, in tokens.
        out: The folder for `bins-*.parquet` and `plan.json`, which is written last. All pairs are checked before
            anything is written.
        skip_long: Leave out and count pairs that exceed a bin, instead of raising.
        bins_per_file: The number of bins per Parquet file.
        on_progress: Called with (bins written, total bins).

    Returns:
        The contents of `plan.json`.

    Raises:
        UserError: A pair exceeds a bin, or there are no pairs.
        DataError: As in `read_preferences`.
    """
    capacity = compiler.format.context_length
    if isinstance(pairs, Path):
        all_pairs: Iterator[Pair] = (compile_preference(row, compiler.tokenizer) for row in read_preferences(pairs))
    else:
        all_pairs = iter(pairs)
    kept: list[Pair] = []
    skipped = 0
    for pair in all_pairs:
        if pair.length <= capacity:
            kept.append(pair)
        elif skip_long:
            skipped += 1
        else:
            raise UserError(
                f"{pair.origin}: prompt and answers have {pair.length} tokens (the prompt counts twice), but a bin "
                f"holds {capacity}. Shorten them, raise prompt.context_length, or set skip_long to skip such pairs."
            )
    if not kept:
        raise UserError(
            f"{pairs if isinstance(pairs, Path) else 'the list'} contains no pair to train on ({skipped} were too "
            f"long for a bin of {capacity} tokens). Add pairs that fit."
        )
    plan = pack([pair.length for pair in kept], capacity)
    start_folder(out)
    files = (
        write_file(_documents(kept, plan, range(start, min(start + bins_per_file, len(plan))), file), out=out)
        for file, start in enumerate(range(0, len(plan), bins_per_file))
    )
    finished = finish_plan(
        (row for file in files for row in file.to_pylist()),
        n_bins=len(plan),
        n_documents=2 * len(kept),
        context_length=capacity,
        vocabulary_size=compiler.tokenizer.vocabulary_size,
        prompt_digest=PromptBundle.of(compiler).digest,
        on_progress=on_progress,
    )
    result = PairsPlan(**{**vars(finished), "kind": "pairs"}, n_pairs=len(kept), n_skipped=skipped).sealed()
    result.write(out)
    return result


def _documents(pairs: Sequence[Pair], plan: list[list[int]], bins: range, file: int) -> pa.Table:
    """Return the documents of one file's bins in the columns that `write_file` reads."""
    placed = [
        (bin_id, 2 * place + side, pairs[index], answer)
        for bin_id in bins
        for place, index in enumerate(plan[bin_id])
        for side, answer in enumerate((pairs[index].chosen, pairs[index].rejected))
    ]
    ids = [np.concatenate([pair.prompt, answer]) for _, _, pair, answer in placed]
    roles = [np.repeat(np.array([0, 1], np.uint8), [len(pair.prompt), len(answer)]) for _, _, pair, answer in placed]
    first = [slot % 2 == 0 for _, slot, *_ in placed]  # a pair's prompt is counted once
    return pa.table(
        {
            "file": pa.array([file] * len(placed), pa.int64()),
            "bin_id": pa.array([bin_id for bin_id, *_ in placed], pa.int64()),
            "slot": pa.array([slot for _, slot, *_ in placed], pa.int64()),
            "length": pa.array([len(document) for document in ids], pa.int64()),
            "ids": pa.array(ids, pa.list_(pa.int32())),
            "roles": pa.array(roles, pa.list_(pa.uint8())),
            "fields_cut": [pair.cut.fields * once for (*_, pair, _), once in zip(placed, first, strict=True)],
            "tokens_cut": [pair.cut.tokens * once for (*_, pair, _), once in zip(placed, first, strict=True)],
            "turns_dropped": [pair.turns_dropped * once for (*_, pair, _), once in zip(placed, first, strict=True)],
        }
    )


def pairs_from_interactions(
    tables: Tables,
    compiler: PromptCompiler,
    split: Split,
    *,
    count: int,
    seed: int,
    members: tuple[float, float] = EVERYONE,
) -> list[Pair]:
    """Make pairs from interactions before the cut.

    The prompt asks the question of a task about an interaction. The chosen answer is the label of the outcome that the
    interactions table has. It is not the outcome that the oracle considers more likely, because the oracle must not
    influence training. The rejected answer is the label of another outcome; it is drawn at random if there are several.

    Args:
        tables: The tables of any source; members who opted out are excluded.
        compiler: Compiles the prompts with half of its context length, because two documents share a bin. The oldest
            history that does not fit is dropped.
        split: Only interactions at or before its cut become pairs. Each prompt shows only strictly earlier ones.
        count: The number of pairs. Each combination of task and interaction is drawn at most once.
        seed: The seed of the random draws.
        members: The part of the members whose interactions become pairs (`is_in_part`).

    Returns:
        `count` pairs in random order; the same for the same seed.

    Raises:
        UserError: The training part has fewer interactions than `count`.
    """
    records = Records(tables)
    rows = tables.interactions.filter(pc.less_equal(micros(tables.interactions), split.train_until))
    rows = rows.sort_by([("timestamp", "ascending"), ("interaction_id", "ascending")])
    # Only the histories of members that are drawn become records.
    encoded = rows["member_id"].combine_chunks().dictionary_encode()
    names, code_N = encoded.dictionary.to_pylist(), encoded.indices.to_numpy()
    is_eligible = np.array([name in records.profiles and is_in_part(name, members) for name in names], bool)
    surfaces = rows["surface"].combine_chunks().dictionary_encode()
    tasks = [
        [task for task in compiler.suite.tasks_of(name) if task.in_training] for name in surfaces.dictionary.to_pylist()
    ]
    count_N = np.array([len(found) for found in tasks], int)[surfaces.indices.to_numpy()] * is_eligible[code_N]
    end_N = np.cumsum(count_N)  # scorable combinations of task and interaction up to each row
    total = int(end_N[-1]) if len(end_N) else 0
    if count > total:
        raise UserError(
            f"{count} preference pairs are requested, but the training part has {total} interactions of eligible "
            f"members. Request fewer pairs, or generate more data."
        )
    order_N = np.argsort(code_N, kind="stable")
    start_of = np.searchsorted(code_N[order_N], np.arange(len(names) + 1))
    ids = rows["interaction_id"].to_pylist()

    @lru_cache(maxsize=10_000)
    def history(code: int) -> tuple[list[int], list[PastInteraction]]:
        places = order_N[start_of[code] : start_of[code + 1]]
        return places.tolist(), records.history(rows.take(pa.array(places)))

    random = np.random.default_rng(seed)
    pairs = []
    for i in random.permutation(total)[:count].tolist():
        row = int(np.searchsorted(end_N, i, side="right"))
        code = int(code_N[row])
        places, past = history(code)
        task = tasks[surfaces.indices[row].as_py()][i - int(end_N[row] - count_N[row])]
        scored = past[places.index(row)]
        profile = records.profiles[names[code]]
        pairs.append(_pair_of(compiler, task, profile, past, scored, random, f"interaction {ids[row]}"))
    return pairs


def _pair_of(
    compiler: PromptCompiler,
    task: TaskSpec,
    profile: Mapping[str, object],
    history: list[PastInteraction],
    scored: PastInteraction,
    random: np.random.Generator,
    origin: str,
) -> Pair:
    """Make the pair of one task and one past interaction."""
    labels = compiler.labels(task)
    question, question_cut = compiler.question(task, profile, scored.entity)
    head, head_cut = compiler.head(task, profile)
    cut = question_cut + head_cut
    budget = compiler.format.context_length // 2 - len(head) - len(question) - max(map(len, labels.values()))
    member = compiler.member(profile, history)
    shown = member.fill(task, budget=budget, candidate=scored.entity, before=scored.timestamp)
    turns = member.turns(task, shown)
    chosen = compiler.suite.outcome(task, scored.action).name
    others = [outcome for outcome in labels if outcome != chosen]
    return Pair(
        prompt=_ids((*head, *chain.from_iterable(turn.question + turn.answer for turn in turns), *question)),
        chosen=_ids(labels[chosen]),
        rejected=_ids(labels[others[random.integers(len(others))]]),
        origin=origin,
        cut=sum((turn.cut for turn in turns), cut),
        turns_dropped=member.visible(task, scored.timestamp) - len(shown),
    )


def _ids(ids: Sequence[int]) -> np.ndarray:
    return np.array(ids, np.int32)
