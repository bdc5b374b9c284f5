"""The training documents of members: compiled from the tables, and packed into the bins that training reads."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from brew_data.packed_bins.plan import BinsPlan
from brew_data.packed_bins.schema import BINS_PER_FILE, CUTS
from brew_data.pipelines.member_groups import CompilerSpec, compiler_spec, load_compiler, read_members
from brew_data.pipelines.shard_packing import pack_shards
from brew_data.prompts.compiler import Document, PastInteraction, PromptCompiler
from brew_data.prompts.variation import VariationConfig
from brew_data.records import MemberHistory
from brew_data.segments import Segment
from brew_data.split import EVERYONE, Split, member_hash
from brew_data.table_shards import TableShards
from brew_platform.errors import UserError

__all__ = ["build_bins", "compile_documents", "document_table", "member_documents"]


def build_bins(
    tables_folder: Path,
    compiler: PromptCompiler,
    split: Split,
    out: Path,
    *,
    members: tuple[float, float] = EVERYONE,
    variation: VariationConfig | None = None,
    after: int | None = None,
    slates: bool = False,
    bins_per_file: int = BINS_PER_FILE,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> BinsPlan:
    """Compile every member's training rows into documents, pack them, and write the bins.

    With Ray, shards are processed by the cluster; its nodes must see both folders. Without Ray, in this process. The
    result is the same, byte for byte.

    Args:
        tables_folder: The folder of the tables.
        compiler: Compiles the documents; its context length is the capacity of a bin, in tokens.
        split: Only rows at or before its cut are read.
        out: As for `pack_shards`.
        members: The part of the members whose rows are read (`is_in_part`).
        variation: How documents vary; None: not at all.
        after: Only interactions later than this time, in microseconds since 1970, are trained; None: all.
        slates: Whether examples of a task whose prompts begin alike share a document (`MemberDocuments.slate`).
        bins_per_file: As for `pack_shards`.
        on_progress: As for `pack_shards`.

    Returns:
        The contents of `plan.json`.

    Raises:
        UserError: The training part is empty, or a row has an unknown action.
        DataError: The tables are missing or damaged.
    """
    tables_folder = tables_folder.absolute()
    source = _MemberDocuments(
        tables_folder=tables_folder,
        spec=compiler_spec(compiler),
        until=split.train_until,
        members=members,
        variation=variation,
        after=after,
        slates=slates,
    )
    plan = pack_shards(
        source,
        list(TableShards.open(tables_folder).of_part(members)),
        compiler,
        out,
        bins_per_file=bins_per_file,
        on_progress=on_progress,
    )
    if plan is None:
        raise UserError(
            f"{tables_folder} has no interaction on a trained surface before the cut, so there is nothing to train on. "
            f"Move the cut, or set in_training for a task."
        )
    return plan


def compile_documents(
    members: Iterable[MemberHistory],
    compiler: PromptCompiler,
    *,
    variation: VariationConfig | None = None,
    after: int | None = None,
    slates: bool = False,
) -> pa.Table:
    """Compile the training rows of members into documents.

    Args:
        members: The members, with the interactions that are trained.
        compiler: Compiles the documents.
        variation: As for `build_bins`.
        after: As for `build_bins`.
        slates: As for `build_bins`.

    Returns:
        document string (unique, sorts by member and time), length int64, ids list<int32>, roles list<uint8>, the
        segments: segment_lengths, segment_prefixes list<int32>, and what was cut: fields_cut, tokens_cut, turns_dropped
        int64.
    """

    def named() -> Iterator[tuple[str, Document]]:
        for member in members:
            compiled = member_documents(
                compiler,
                member.member_id,
                member.profile,
                member.history,
                variation=variation,
                after=after,
                slates=slates,
            )
            for i, document in enumerate(compiled):
                yield f"{member.member_id}/{i:06d}", document

    return document_table(named())


def member_documents(
    compiler: PromptCompiler,
    member_id: str,
    profile: Mapping[str, object],
    history: Sequence[PastInteraction],
    *,
    variation: VariationConfig | None,
    after: int | None = None,
    slates: bool = False,
) -> Iterator[Document]:
    """Yield the training documents of one member, in all their copies.

    Args:
        compiler: Compiles the documents.
        member_id: The id of the member.
        profile: The member's fields by name.
        history: The interactions that are trained, in order of time.
        variation: As for `build_bins`.
        after: As for `build_bins`.
        slates: As for `build_bins`.
    """
    config = variation or VariationConfig(share=0.0)
    for copy in range(config.copies):
        yield from compiler.documents(
            profile,
            config.shown(member_id, copy, history),
            turn_of=member_hash(member_id),
            variation=partial(config.draw, f"{member_id}/{copy}" if copy else member_id),
            after=after,
            slates=slates,
        )


def document_table(named: Iterable[tuple[str, Document]]) -> pa.Table:
    """Return documents as a table.

    Args:
        named: Ids and documents.

    Returns:
        As for `compile_documents`.
    """
    names: list[str] = []
    documents: list[_Encoded] = []
    for name, document in named:
        names.append(name)
        documents.append(_encode(document))
    columns = list(zip(*documents, strict=True)) or [()] * len(_Encoded._fields)
    ids, roles, segment_lengths, segment_prefixes, *cuts = columns
    return pa.table(
        {
            "document": pa.array(names, pa.string()),
            "length": np.array([len(document) for document in ids], np.int64),
            "ids": _lists(ids, np.dtype(np.int32)),
            "roles": _lists(roles, np.dtype(np.uint8)),
            "segment_lengths": _lists(segment_lengths, np.dtype(np.int32)),
            "segment_prefixes": _lists(segment_prefixes, np.dtype(np.int32)),
            **{name: pa.array(cut, pa.int64()) for name, cut in zip(CUTS, cuts, strict=True)},
        }
    )


class _Encoded(NamedTuple):
    ids: np.ndarray
    roles: np.ndarray
    segment_lengths: np.ndarray
    segment_prefixes: np.ndarray
    fields_cut: int
    tokens_cut: int
    turns_dropped: int


class _MemberDocuments(NamedTuple):
    """The training documents of the members of each shard of a folder of tables."""

    tables_folder: Path
    spec: CompilerSpec
    until: int
    members: tuple[float, float]
    variation: VariationConfig | None
    after: int | None
    slates: bool

    def documents(self, shard: int) -> pa.Table:
        compiler = load_compiler(self.spec)
        members = read_members(
            self.tables_folder,
            shard,
            until=self.until,
            members=self.members,
            surfaces=compiler.suite.trained_surfaces,
            after=self.after,
        )
        return compile_documents(members, compiler, variation=self.variation, after=self.after, slates=self.slates)

    def identity(self) -> dict[str, Any]:
        shards = TableShards.open(self.tables_folder)
        return {
            "tables": shards.fingerprint(shards.of_part(self.members)),
            "prompts": self.spec.digest,
            "history": repr(sorted(self.spec.history.items())),
            "until": self.until,
            "members": list(self.members),
            "variation": None if self.variation is None else asdict(self.variation),
            "after": self.after,
            "slates": self.slates,
        }


def _encode(document: Document) -> _Encoded:
    segments = document.segments or (Segment(tokens=len(document.ids), prefix=0),)
    return _Encoded(
        np.array(document.ids, np.int32),
        np.frombuffer(bytes(document.roles), np.uint8),
        np.array([segment.tokens for segment in segments], np.int32),
        np.array([segment.prefix for segment in segments], np.int32),
        document.cut.fields,
        document.cut.tokens,
        document.turns_dropped,
    )


def _lists(arrays: Sequence[np.ndarray], dtype: np.dtype) -> pa.ListArray:
    values = np.concatenate([np.empty(0, dtype), *arrays])
    ends = np.cumsum([0, *map(len, arrays)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(values))
