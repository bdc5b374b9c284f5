"""Packed bins as training steps: reading them, their order, and one worker's row.

Owns: the check of a bins folder, which bin comes next, collation. Does not own: what is in a bin (brew_data writes
`bins-*.parquet` and `plan.json`).
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from brew_platform.errors import DataError, UserError
from brew_train.losses import ANSWER, NO_TARGET, PROMPT

__all__ = ["Batch", "BinOrder", "BinOrderState", "BinReader", "collate"]

COLUMNS = {
    "bin_id": pa.int64(),
    "input_ids": pa.list_(pa.int32()),
    "doc_lengths": pa.list_(pa.int32()),
    "roles": pa.list_(pa.uint8()),
}


@dataclass(frozen=True, kw_only=True)
class Bin:
    """One packed bin."""

    input_ids: np.ndarray  # int32 [tokens]
    doc_lengths: np.ndarray  # int32 [documents]; sums to tokens
    roles: np.ndarray  # uint8 [tokens]: 0 prompt, 1 answer


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One worker's share of a step, packed into a single row of T tokens."""

    input_ids_1T: torch.Tensor  # int64
    position_ids_1T: torch.Tensor  # int64, from 0 in each document
    cu_seqlens: torch.Tensor  # int32 [documents + 1]: where each document starts, and T
    max_length: int  # tokens in the longest document
    targets_T: torch.Tensor  # int64: the next token of the same document, NO_TARGET at its end
    roles_T: torch.Tensor  # uint8: role of the target

    @property
    def tokens(self) -> int:
        """Real tokens in the row; there is no padding."""
        return len(self.targets_T)

    def counts(self) -> torch.Tensor:
        """Prompt and answer targets, float64, shape [2]."""
        valid_T = self.targets_T != NO_TARGET
        return torch.stack([(valid_T & (self.roles_T == role)).sum() for role in (PROMPT, ANSWER)]).double()

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`."""
        moved: dict[str, Any] = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, torch.Tensor)}
        return replace(self, **moved)


class BinReader:
    """Random access to the bins of one folder; all are held in memory as Arrow columns (5 bytes per token).

    Args:
        folder: holds `bins-*.parquet` and `plan.json`.
        vocabulary_size: ids that the model knows.
        context_length: longest bin that the model reads, in tokens.

    Raises:
        UserError: the folder is missing, or was made for another vocabulary or context length.
        DataError: a file is unreadable, has other columns, or disagrees with the plan.
    """

    def __init__(self, folder: Path, *, vocabulary_size: int, context_length: int) -> None:
        plan = _read_plan(folder)
        self.plan_hash: str = plan["plan_hash"]
        self.n_bins: int = plan["n_bins"]
        if plan["vocabulary_size"] > vocabulary_size:
            raise UserError(
                f"the bins in {folder} were made with a vocabulary of {plan['vocabulary_size']} ids, but the model has "
                f"{vocabulary_size}: build model and bins with the same tokenizer."
            )
        if plan["context_length"] > context_length:
            raise UserError(
                f"the bins in {folder} hold up to {plan['context_length']} tokens, but the model reads "
                f"{context_length}: build shorter bins, or give the model a longer context."
            )
        files = sorted(folder.glob("bins-*.parquet"))
        if not files:
            raise UserError(f"{folder} has a plan but no bins-*.parquet: build the data again.")
        self._table = pa.concat_tables([_read_file(file) for file in files]).combine_chunks()
        self._check(folder, plan, vocabulary_size)

    def _check(self, folder: Path, plan: dict[str, Any], vocabulary_size: int) -> None:
        table = self._table
        if table.num_rows != self.n_bins or self.n_bins == 0:
            raise DataError(
                f"{folder}/plan.json speaks of {self.n_bins} bins, the files hold {table.num_rows}: a file is missing "
                f"or of another plan, or nothing was packed; build the data again."
            )
        if not np.array_equal(table["bin_id"].to_numpy(), np.arange(self.n_bins)):
            raise DataError(
                f"the bins in {folder} are not numbered 0 to {self.n_bins - 1} in file order; build them again."
            )
        lengths = pc.list_value_length(table["input_ids"])
        same_roles = pc.all(pc.equal(lengths, pc.list_value_length(table["roles"]))).as_py()
        ids = pc.list_flatten(table["input_ids"])
        documents = pc.list_flatten(table["doc_lengths"]).to_numpy()
        ends = np.cumsum(pc.list_value_length(table["doc_lengths"]).to_numpy())  # of each bin's documents
        covered = np.array_equal(np.append(0, np.cumsum(documents))[ends], np.cumsum(lengths.to_numpy()))
        shortest = min(pc.min(lengths).as_py(), documents.min(initial=1))
        if not same_roles or not covered or shortest < 1 or pc.max(lengths).as_py() > plan["context_length"]:
            raise DataError(
                f"the bins in {folder} contradict themselves: roles and document lengths must cover every token, and "
                f"no bin may be empty or longer than {plan['context_length']} tokens; build the data again."
            )
        lowest, highest = pc.min(ids).as_py(), pc.max(ids).as_py()
        if lowest < 0 or highest >= vocabulary_size:
            raise DataError(
                f"the bins in {folder} hold token ids from {lowest} to {highest}, but the model knows 0 to "
                f"{vocabulary_size - 1}: build model and bins with the same tokenizer."
            )

    def __getitem__(self, bin_id: int) -> Bin:
        """The bin with that id; ids run from 0 to n_bins - 1."""
        return Bin(
            **{name: self._table[name][bin_id].values.to_numpy() for name in ("input_ids", "doc_lengths", "roles")}
        )


def _read_plan(folder: Path) -> dict[str, Any]:
    path = folder / "plan.json"
    if not path.is_file():
        raise UserError(f"{folder} has no plan.json, so it is no finished folder of bins: build the data first.")
    try:
        plan = json.loads(path.read_text())
        missing = {"plan_hash", "context_length", "n_bins", "vocabulary_size"} - set(plan)
    except (ValueError, TypeError) as error:
        raise DataError(f"{path} is no JSON object ({error}); build the data again.") from error
    if missing:
        raise DataError(f"{path} lacks {', '.join(sorted(missing))}; build the data again.")
    return dict(plan)


def _read_file(path: Path) -> pa.Table:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} is no readable Parquet file ({error}); build the data again.") from error
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise DataError(f"{path} lacks the column {', '.join(missing)}; it has {', '.join(table.column_names)}.")
    try:
        return table.select(list(COLUMNS)).cast(pa.schema(COLUMNS))
    except pa.ArrowException as error:
        raise DataError(
            f"{path} has a column of another type than {COLUMNS} ({error}); build the data again."
        ) from error


@dataclass(frozen=True, kw_only=True)
class BinOrderState:
    """Where training stands in the data; committed together with the weights."""

    epoch: int = 0
    next_bin: int = 0  # position in this epoch's permutation, counted over all workers
    plan_hash: str  # the packing plan that these positions refer to

    def as_dict(self) -> dict[str, Any]:
        """For the manifest of a commit."""
        return asdict(self)


class BinOrder:
    """Hands out bin ids, each exactly once per epoch, in an order that does not depend on the number of workers.

    Args:
        n_bins: bins in the plan.
        plan_hash: hash of the plan.
        seed: of the permutation; the same seed gives the same order for ever.
    """

    def __init__(self, *, n_bins: int, plan_hash: str, seed: int) -> None:
        self.n_bins, self.plan_hash, self.seed = n_bins, plan_hash, seed

    def start(self) -> BinOrderState:
        """The state before the first bin."""
        return BinOrderState(plan_hash=self.plan_hash)

    def take(self, state: BinOrderState, count: int) -> tuple[np.ndarray, BinOrderState]:
        """The next `count` bin ids and the state after them.

        Returns:
            ids: int64, shape (count,); what the end of an epoch leaves open is filled from the next one.

        Raises:
            UserError: the state belongs to another plan.
        """
        if state.plan_hash != self.plan_hash:
            raise UserError(
                f"this run was trained on plan {state.plan_hash[:12]}, but the bins given are plan "
                f"{self.plan_hash[:12]}: pass the bins that the run started with, or start a new run folder, with "
                f"model.init_from to keep its weights."
            )
        parts: list[np.ndarray] = []
        epoch, position, open_places = state.epoch, state.next_bin, count
        while open_places:
            part = self._permutation(epoch)[position : position + open_places]
            parts.append(part)
            open_places -= len(part)
            position += len(part)
            if position == self.n_bins:
                epoch, position = epoch + 1, 0
        return np.concatenate(parts), replace(state, epoch=epoch, next_bin=position)

    def _permutation(self, epoch: int) -> np.ndarray:
        # numpy promises that a bit generator's raw stream never changes; it does not promise that of permutation().
        if getattr(self, "_cached", (None, None))[0] != epoch:
            raw = np.random.Philox(key=np.array([self.seed, epoch], dtype=np.uint64)).random_raw(self.n_bins)
            self._cached = (epoch, np.argsort(raw, kind="stable"))
        return self._cached[1]


def collate(bins: list[Bin]) -> Batch:
    """Packs bins into one row.

    Args:
        bins: at least one.

    Returns:
        A batch on the CPU, whose documents are those of the bins in order.
    """
    ids_T = np.concatenate([b.input_ids for b in bins])
    roles_T = np.concatenate([b.roles for b in bins])
    lengths = np.concatenate([b.doc_lengths for b in bins])
    ends = np.cumsum(lengths)
    starts = ends - lengths
    targets_T = np.append(ids_T[1:], 0).astype(np.int64)
    targets_T[ends - 1] = NO_TARGET
    return Batch(
        input_ids_1T=torch.from_numpy(ids_T.astype(np.int64)).unsqueeze(0),
        position_ids_1T=torch.from_numpy(np.arange(len(ids_T)) - np.repeat(starts, lengths)).unsqueeze(0),
        cu_seqlens=torch.from_numpy(np.append(starts, len(ids_T)).astype(np.int32)),
        max_length=int(lengths.max()),
        targets_T=torch.from_numpy(targets_T),
        roles_T=torch.from_numpy(np.append(roles_T[1:], np.uint8(PROMPT))),
    )
