"""Reads the records of one member of a data folder; the rows of other members stay on the disk."""

from collections.abc import Mapping
from typing import NamedTuple

import pyarrow as pa
import pyarrow.dataset

from brew_data.data_folder import DataFolder
from brew_data.entity_index import EntityIndex
from brew_data.records import Records, RecordTables
from brew_platform.errors import UserError

__all__ = ["MemberRows", "read_member"]


class MemberRows(NamedTuple):
    """A member's profile, the rows of the interactions table by time and then id, and the records that they need."""

    profile: Mapping[str, str]
    rows: pa.Table
    records: Records


def read_member(data: DataFolder, member_id: str) -> MemberRows:
    """Read a member with all interactions.

    Raises:
        UserError: The data have no such member, or the member opted out.
        DataError: A table is damaged.
    """
    members = data.rows("members", "member_id", [member_id])
    if not members.num_rows:
        known = pyarrow.dataset.dataset(data.tables_folder / "members.parquet").head(1, columns=["member_id"])
        example = f", such as {known['member_id'][0].as_py()!r}" if known.num_rows else ""
        kind = "pseudonym" if data.info.key_id else "id"
        raise UserError(f"{data.folder} has no member {member_id!r}. Give the {kind} of one of its members{example}.")
    if members["opted_out"][0].as_py():
        raise UserError(f"member {member_id!r} has opted out, so that no prompt shows this member. Give another one.")
    rows = data.rows("interactions", "member_id", [member_id])
    rows = rows.sort_by([("timestamp", "ascending"), ("interaction_id", "ascending")])
    entities = EntityIndex(data.tables_folder).take(rows["entity_id"].unique().to_pylist())
    records = Records(RecordTables(members, entities))
    return MemberRows(records.profiles[member_id], rows, records)
