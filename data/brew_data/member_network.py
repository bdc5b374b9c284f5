"""Adds the network of members to their profiles, as fields of the members table."""

import pyarrow as pa
import pyarrow.compute as pc

from brew_data.prompts.fields import field_values
from brew_data.prompts.network import NETWORK_FIELDS, Network, network_fields
from brew_data.prompts.suite import TaskSuite

__all__ = ["with_network"]


def with_network(members: pa.Table, connections: pa.Table | None, suite: TaskSuite, *, until: int) -> pa.Table:
    """Return the members with those network fields that the profile of the suite declares.

    They become fields like all others, so training, serving and the context store show the same facts. Members who
    opted out are in no network, and get no fields.

    Args:
        members: The members table.
        connections: The connections table; None: the members are returned unchanged.
        suite: Declares the fields. Other members are described by the first field of the profile's template.
        until: The end of training, in microseconds since 1970, UTC; later connections are left out.

    Returns:
        The members. A field that they have already is kept.
    """
    kind = members.schema.field("profile").type
    present = [field.name for field in kind]
    added = [name for name in NETWORK_FIELDS if name in suite.profile.fields and name not in present]
    if connections is None or not added:
        return members
    described_by = suite.profile.fields[0]
    network = Network(connections, until=until)
    shown = members.filter(pc.invert(members["opted_out"]))
    texts = (
        pc.struct_field(shown["profile"], described_by).to_pylist()
        if described_by in present
        else [None] * shown.num_rows
    )
    profiles = {
        member: field_values({described_by: text})
        for member, text in zip(shown["member_id"].to_pylist(), texts, strict=True)
    }
    facts = [
        network_fields(network.links(member, profiles), described_by) if member in profiles else {}
        for member in members["member_id"].to_pylist()
    ]
    columns = [pc.struct_field(members["profile"], name).combine_chunks() for name in present]
    columns += [pa.array([fact.get(name) for fact in facts], pa.string()) for name in added]
    profile = pa.StructArray.from_arrays(columns, names=[*present, *added])
    return members.set_column(members.schema.get_field_index("profile"), "profile", profile)
