"""Adds the network of members to their profiles, as fields of the members table.

They become fields like all others, so training, serving and the context store show the same facts.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brew_data.prompts.fields import field_values
from brew_data.prompts.network import NETWORK_FIELDS, Network, network_fields
from brew_data.prompts.suite import TaskSuite
from brew_data.table_shards import read_files, storable, table_files
from brew_platform.files import atomic_file

__all__ = ["add_network", "with_network"]


def add_network(folder: Path, suite: TaskSuite, *, until: int) -> None:
    """Add those network fields to the members of a folder of tables that the profile of the suite declares.

    The files of the members are replaced one after the other. If that is interrupted, a second call completes it. The
    connections are held in memory, in about 100 bytes each, and one field of each member.

    Args:
        folder: The folder of the tables. Without connections, nothing is changed.
        suite: Declares the fields. Other members are described by the first field of the profile's template.
        until: The end of training, in microseconds since 1970, UTC; later connections are left out.

    Raises:
        DataError: A table is missing or damaged.
    """
    fields = [name for name in NETWORK_FIELDS if name in suite.profile.fields]
    if not fields or not (folder / "connections.parquet").exists():
        return
    described_by = suite.profile.fields[0]
    network = Network(read_files(table_files(folder, "connections")), until=until)
    files = table_files(folder, "members")
    profiles: dict[str, dict[str, str]] = {}
    for file in files:
        profiles |= _descriptions(read_files([file]), described_by)
    for file in files:
        members = read_files([file])
        added = with_network(members, network, profiles, fields, described_by)
        if added is not members:
            with atomic_file(file) as temporary:
                pq.write_table(storable(added).combine_chunks(), temporary, compression="zstd")


def with_network(
    members: pa.Table,
    network: Network,
    profiles: Mapping[str, Mapping[str, str]],
    fields: Sequence[str],
    described_by: str,
) -> pa.Table:
    """Return members with network fields.

    Args:
        members: Rows of the members table.
        network: The network of all members.
        profiles: The description of each member who did not opt out. The others are in no network, and get no fields.
        fields: The fields to add, from `NETWORK_FIELDS`. Those that the members have already are kept.
        described_by: As in `network_fields`.
    """
    present = [field.name for field in members.schema.field("profile").type]
    added = [name for name in fields if name not in present]
    if not added:
        return members
    facts = [
        network_fields(network.links(member, profiles), described_by) if member in profiles else {}
        for member in members["member_id"].to_pylist()
    ]
    columns = [pc.struct_field(members["profile"], name).combine_chunks() for name in present]
    columns += [pa.array([fact.get(name) for fact in facts], pa.string()) for name in added]
    profile = pa.StructArray.from_arrays(columns, names=[*present, *added])
    return members.set_column(members.schema.get_field_index("profile"), "profile", profile)


def _descriptions(members: pa.Table, field: str) -> dict[str, dict[str, str]]:
    """Return the text of a field by member, without those who opted out."""
    rows = members.filter(pc.invert(members["opted_out"]))
    has_field = rows.schema.field("profile").type.get_field_index(field) >= 0
    texts = pc.struct_field(rows["profile"], field).to_pylist() if has_field else [None] * rows.num_rows
    return {
        member: field_values({field: text}) for member, text in zip(rows["member_id"].to_pylist(), texts, strict=True)
    }
