"""The stage between a source and everything that is written: opt-out, text without identifiers, pseudonyms."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from brew_data.privacy.config import PrivacyConfig
from brew_data.privacy.opt_out import OptOut, read_opted_out
from brew_data.privacy.pseudonyms import Pseudonyms
from brew_data.privacy.report import Removals
from brew_data.schema import AUTHOR, Tables
from brew_data.table_cleaning import clean_rows
from brew_platform.errors import DataError

__all__ = ["PrivacyStage", "make_private"]

_MEMBER_IDS = {  # columns of member ids by table
    "members": ["member_id"],
    "entities": [AUTHOR],
    "interactions": ["member_id"],
    "connections": ["member_id", "other_id"],
}


class PrivacyStage:
    """Makes rows of the tables private, a part of a table at a time.

    All members come first, entities before interactions, and interactions before the oracle: what refers to a removed
    row is removed, too.

    Args:
        config: The settings.
        removals: Receives the numbers of rows that were changed or removed.

    Raises:
        UserError: The key of the pseudonyms, or the list of members who opted out, cannot be read.
    """

    def __init__(self, config: PrivacyConfig, removals: Removals) -> None:
        self._removals = removals
        self._profile_types = pa.array(config.profile_types, pa.string())
        self._pseudonyms = None if config.pseudonyms is None else config.pseudonyms.open()
        listed = [] if config.opted_out_file is None else read_opted_out(Path(config.opted_out_file))
        self._opt_out = OptOut(
            pa.array(listed, pa.string()),
            author_fields=config.author_fields,
            profile_types=config.profile_types,
            removals=removals,
        )

    def apply(self, table: str, rows: pa.Table) -> pa.Table:
        """Return rows without what is private.

        Args:
            table: The name of the table.
            rows: Rows with the columns of `Tables`.

        Raises:
            DataError: The id of an entity contains the id of the member whom it describes, although that is replaced.
        """
        remove: Callable[[pa.Table], pa.Table] = getattr(self._opt_out, table)
        if table == "entities":
            rows = remove(clean_rows(table, rows, self._removals))
        elif table == "members":
            rows = clean_rows(table, remove(rows), self._removals)
        else:
            rows = remove(rows)
        if self._pseudonyms is None:
            return rows
        if table == "entities" and AUTHOR in rows.column_names:
            self._require_own_ids(rows)
        for column in _MEMBER_IDS.get(table, ()):
            if column in rows.column_names:
                ids = _pseudonyms_of(rows[column], self._pseudonyms)
                rows = rows.set_column(rows.column_names.index(column), column, ids)
        return rows

    @property
    def opted_out(self) -> frozenset[str]:
        """The ids of the members who opted out so far, as the source names them, and as the result names members."""
        ids = self._opt_out.ids.to_pylist()
        return frozenset(ids if self._pseudonyms is None else (*ids, *map(self._pseudonyms.of, ids)))

    def _require_own_ids(self, entities: pa.Table) -> None:
        about = entities.filter(pc.is_in(entities["entity_type"], value_set=self._profile_types))
        ids, members = about["entity_id"].to_pylist(), about[AUTHOR].to_pylist()
        count = sum(member is not None and member in id_ for id_, member in zip(ids, members, strict=True))
        if count:
            raise DataError(
                f"table entities: the ids of {count:,} entities contain the id of the member whom they describe, which "
                f"privacy.pseudonyms replaces. Give entities about members ids of their own."
            )


def make_private(tables: Tables, config: PrivacyConfig) -> tuple[Tables, Removals]:
    """Return tables without members who opted out and without identifiers in text, with pseudonyms if configured.

    Text is converted by the rule of prompts, so that prompts of the result are those of the tables.

    Raises:
        UserError: The key of the pseudonyms, or the list of members who opted out, cannot be read.
        DataError: As `PrivacyStage.apply`.
    """
    removals: Removals = {}
    stage = PrivacyStage(config, removals)
    return Tables(**{name: stage.apply(name, rows) for name, rows in tables.present().items()}), removals


def _pseudonyms_of(ids: pa.ChunkedArray, pseudonyms: Pseudonyms) -> pa.ChunkedArray:
    """Return the pseudonyms of a column of member ids; nulls stay."""
    chunks = []
    for chunk in ids.chunks:
        encoded = chunk.dictionary_encode()
        values = pa.array([pseudonyms.of(id_) for id_ in encoded.dictionary.to_pylist()], pa.string())
        chunks.append(values.take(encoded.indices))
    return pa.chunked_array(chunks, pa.string())
