"""The sources of documents of a corpus: the tables of a data set, and files of conversations.

A source consists of parts, which are compiled independently of each other: shards of the tables, or files. It is sent
to the workers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brew_data.corpora.config import CorpusSourceConfig
from brew_data.corpora.conversations import conversation_document, conversation_files, read_conversations
from brew_data.corpora.cpt import entity_documents, network_documents, profile_documents
from brew_data.entity_index import EntityIndex, write_index
from brew_data.packed_bins.plan import digest_file
from brew_data.pipelines.member_groups import read_members, read_shard
from brew_data.prompts.compiler import Document, PromptCompiler
from brew_data.prompts.network import Link
from brew_data.prompts.variation import FIRST, Variation, VariationConfig
from brew_data.records import MemberHistory, Records, RecordTables
from brew_data.schema import micros
from brew_data.sources.quarantine import Quarantine
from brew_data.split import are_in_part, hash_ids, member_hash
from brew_data.table_shards import TableShards, read_files, storable, table_files
from brew_platform.files import atomic_file

__all__ = ["SKIPPED", "DocumentSource", "Found", "TableRows", "open_source"]

MEMBER_FILE = "members.arrow"  # index of the members, for networks
SHOWN_FILE = "shown-entities.npy"  # ascending hashes of the entities that members saw before the cut
SKIPPED = "the first turn exceeds the context"  # reason of a conversation in the quarantine


class Found(NamedTuple):
    """A document of a source.

    Args:
        id: Unique in the source.
        stratum: The task of a chat, or the type of an entity; empty for other sources.
        document: The document.
    """

    id: str
    stratum: str
    document: Document


@dataclass(frozen=True, kw_only=True)
class TableRows:
    """The rows of tables that a corpus may read.

    Args:
        folder: The folder of the tables.
        until: Later interactions and connections are left out, in microseconds since 1970, UTC.
        members: The part of the members that is read (`is_in_part`).
        variation: How documents vary; None: not at all.
    """

    folder: Path
    until: int
    members: tuple[float, float]
    variation: VariationConfig | None

    def forms(self, record: str) -> Variation:
        """Return the forms of the documents of a member or an entity."""
        return FIRST if self.variation is None else self.variation.draw(record, 0)


class DocumentSource(Protocol):
    """A source of documents."""

    def parts(self) -> list[int]:
        """Return the numbers of the parts."""

    def prepare(self, work: Path, compiler: PromptCompiler) -> None:
        """Write what all parts need to the folder `work`. A second call changes nothing."""

    def documents(self, part: int, compiler: PromptCompiler, work: Path, quarantine: Quarantine) -> Iterator[Found]:
        """Compile the documents of a part.

        Args:
            part: The number of the part.
            compiler: Compiles the documents.
            work: The folder that `prepare` wrote to.
            quarantine: Receives the rows that cannot be read, as the table `rows`.

        Raises:
            UserError: A row has an unknown action.
            DataError: A table or file is missing or damaged.
        """

    def identity(self) -> dict[str, Any]:
        """Return everything that the documents depend on beside the prompts, as JSON."""


def open_source(config: CorpusSourceConfig, rows: TableRows) -> DocumentSource:
    """Return the source that a recipe describes.

    Raises:
        UserError: There are no files of conversations at its path.
        DataError: The tables are missing or damaged.
    """
    if config.kind == "conversations":
        assert config.path is not None
        return _Conversations(tuple(conversation_files(Path(config.path))))
    return _Entities(rows) if config.kind == "entities" else _Members(config.kind, rows)


@dataclass(frozen=True)
class _Members:
    """Documents that are about members: chats, profiles with history, or networks."""

    kind: str
    rows: TableRows

    def parts(self) -> list[int]:
        return list(TableShards.open(self.rows.folder).of_part(self.rows.members))

    def prepare(self, work: Path, compiler: PromptCompiler) -> None:
        if self.kind == "networks" and not (work / MEMBER_FILE).exists():
            shards = TableShards.open(self.rows.folder)
            schema = _indexed(shards, 0).schema
            with atomic_file(work / MEMBER_FILE) as temporary:
                write_index(temporary, (_indexed(shards, shard) for shard in range(shards.count)), schema)

    def documents(self, part: int, compiler: PromptCompiler, work: Path, quarantine: Quarantine) -> Iterator[Found]:
        if self.kind == "networks":
            yield from _networks(self.rows, part, compiler, work)
            return
        members = read_members(
            self.rows.folder,
            part,
            until=self.rows.until,
            members=self.rows.members,
            surfaces=compiler.suite.trained_surfaces,
        )
        for member in members:
            for number, document in enumerate(self._compile(member, compiler)):
                yield Found(f"{member.member_id}/{number:06d}", document.task, document)

    def _compile(self, member: MemberHistory, compiler: PromptCompiler) -> Sequence[Document]:
        if self.kind == "profiles":
            forms = self.rows.forms(member.member_id)
            return profile_documents(compiler, member.profile, member.history, variation=forms)
        variation = self.rows.variation
        return compiler.documents(
            member.profile,
            member.history,
            turn_of=member_hash(member.member_id),
            variation=None if variation is None else partial(variation.draw, member.member_id),
        )

    def identity(self) -> dict[str, Any]:
        is_network = self.kind == "networks"  # shows profiles of all members
        shards = range(TableShards.open(self.rows.folder).count) if is_network else self.parts()
        return {"kind": self.kind} | _identity(self.rows, shards, connections=is_network)


@dataclass(frozen=True)
class _Entities:
    """The entities that members saw on trained surfaces before the cut."""

    rows: TableRows

    def parts(self) -> list[int]:
        return list(range(len(table_files(self.rows.folder, "entities"))))

    def prepare(self, work: Path, compiler: PromptCompiler) -> None:
        if (work / SHOWN_FILE).exists():
            return
        shards = TableShards.open(self.rows.folder)
        shown_N = np.zeros(0, np.uint64)
        for shard in range(shards.count):
            _, rows = read_shard(
                self.rows.folder, shard, until=self.rows.until, surfaces=compiler.suite.trained_surfaces
            )
            shown_N = np.union1d(shown_N, hash_ids(pc.unique(rows["entity_id"]).to_pylist()))
        with atomic_file(work / SHOWN_FILE) as temporary, temporary.open("wb") as file:
            np.save(file, shown_N)

    def documents(self, part: int, compiler: PromptCompiler, work: Path, quarantine: Quarantine) -> Iterator[Found]:
        shown_N = np.load(work / SHOWN_FILE, mmap_mode="r")
        entities = read_files([table_files(self.rows.folder, "entities")[part]])
        entities = entities.filter(pa.array(np.isin(hash_ids(entities["entity_id"].to_pylist()), shown_N)))
        no_members = TableShards.open(self.rows.folder).read("members", 0).slice(0, 0)
        for entity_id, entity in Records(RecordTables(no_members, entities)).entities.items():
            documents = entity_documents(compiler, entity, variation=self.rows.forms(entity_id))
            for number, document in enumerate(documents):
                yield Found(f"{entity_id}/{number:06d}", entity.entity_type, document)

    def identity(self) -> dict[str, Any]:
        shards = range(TableShards.open(self.rows.folder).count)
        return {"kind": "entities"} | _identity(self.rows, shards, connections=False)


@dataclass(frozen=True)
class _Conversations:
    """Conversations of files; each file is a part."""

    files: tuple[Path, ...]

    def parts(self) -> list[int]:
        return list(range(len(self.files)))

    def prepare(self, work: Path, compiler: PromptCompiler) -> None:
        pass

    def documents(self, part: int, compiler: PromptCompiler, work: Path, quarantine: Quarantine) -> Iterator[Found]:
        path = self.files[part]
        for conversation in read_conversations(path, quarantine, table="rows"):
            document = conversation_document(conversation, compiler)
            if document is None:
                quarantine.add("rows", file=path.name, line=conversation.line, reason=SKIPPED, values="")
            else:
                yield Found(f"{path.name}/{conversation.line:09d}", "", document)

    def identity(self) -> dict[str, Any]:
        return {"kind": "conversations", "files": [[file.name, digest_file(file)] for file in self.files]}


def _networks(rows: TableRows, shard: int, compiler: PromptCompiler, work: Path) -> Iterator[Found]:
    """Compile the networks of the members of a shard.

    A connection is in the document of the member of its row (`member_id`), and not in that of the other member: the
    facts are the same, and a shard has the rows of its members only.
    """
    shards = TableShards.open(rows.folder)
    if not (rows.folder / "connections.parquet").exists():
        return
    members = shards.read("members", shard)
    members = members.filter(pa.array(are_in_part(hash_ids(members["member_id"].to_pylist()), rows.members)))
    links = shards.read("connections", shard)
    links = links.filter(pc.less_equal(links["timestamp"].cast(pa.int64()), rows.until))
    others = EntityIndex(work, MEMBER_FILE).take(pc.unique(links["other_id"]).to_pylist())
    entities = EntityIndex(rows.folder).take([])
    profiles, other_profiles = (
        Records(RecordTables(found, entities)).profiles
        for found in (members, others.rename_columns({"entity_id": "member_id"}))
    )
    found: dict[str, list[Link]] = {}
    order = [("member_id", "ascending"), ("timestamp", "descending"), ("other_id", "ascending"), ("kind", "ascending")]
    links = links.set_column(links.column_names.index("timestamp"), "timestamp", micros(links))
    for row in links.sort_by(order).to_pylist():
        if row["member_id"] in profiles and row["other_id"] in other_profiles:
            link = Link(row["kind"], other_profiles[row["other_id"]], row["timestamp"])
            found.setdefault(row["member_id"], []).append(link)
    for member_id, of_member in found.items():
        documents = network_documents(compiler, profiles[member_id], of_member, variation=rows.forms(member_id))
        for number, document in enumerate(documents):
            yield Found(f"{member_id}/{number:06d}", "", document)


def _indexed(shards: TableShards, shard: int) -> pa.Table:
    """Return the members of a shard in the columns of `write_index`."""
    return storable(shards.read("members", shard)).rename_columns({"member_id": "entity_id"})


def _identity(rows: TableRows, shards: Sequence[int], *, connections: bool) -> dict[str, Any]:
    has_network = connections and (rows.folder / "connections.parquet").exists()
    return {
        "tables": TableShards.open(rows.folder).fingerprint(shards),
        "connections": [digest_file(file) for file in table_files(rows.folder, "connections")] if has_network else [],
        "until": rows.until,
        "members": list(rows.members),
        "variation": None if rows.variation is None else asdict(rows.variation),
    }
