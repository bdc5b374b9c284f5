"""Checks of tables against a task suite, before anything is compiled."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from brew_data.problems import Problem, suggest
from brew_data.prompts.network import NETWORK_FIELDS
from brew_data.prompts.suite import TaskSuite
from brew_data.schema import Tables

__all__ = ["TableChecks", "check_tables", "null_shares"]

EXAMPLES = 3
WARNING_SHARE = 0.5  # a template field that is absent in more rows is reported

_EVENT = ["member_id", "entity_id", "surface", "action", "timestamp"]
_RECORDS = {"members": ("member_id", "profile"), "entities": ("entity_id", "fields")}  # by table: key and struct


def check_tables(tables: Tables, suite: TaskSuite) -> list[Problem]:
    """Compare surfaces, actions, entity types and fields of the tables with those that the suite knows.

    Args:
        tables: From `make_private`.
        suite: The suite.
    """
    checks = TableChecks()
    for name, rows in tables.present().items():
        checks.add(name, rows)
    checks.add_shard(tables.interactions, tables.entities)
    return checks.problems(suite)


def null_shares(tables: Tables) -> dict[str, float]:
    """Return the share of rows in which each field of a profile or an entity is absent, by `table.field`."""
    checks = TableChecks()
    for name in _RECORDS:
        checks.add(name, getattr(tables, name))
    return checks.null_shares()


@dataclass
class _Found:
    """Rows of one kind: their number, and the ids of some of them."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, ids: pa.ChunkedArray | pa.Array) -> None:
        self.count += len(ids)
        if len(self.examples) < EXAMPLES:
            new = [id_ for id_ in pc.unique(ids).slice(0, 2 * EXAMPLES).to_pylist() if id_ not in self.examples]
            self.examples = [*self.examples, *new][:EXAMPLES]


class TableChecks:
    """Collects what the checks need from rows that come in parts; counts only are kept."""

    def __init__(self) -> None:
        self._rows: Counter[str] = Counter()
        self._actions: Counter[tuple[str, str]] = Counter()  # rows by surface and action
        self._types: dict[str, _Found] = {}  # entities by type
        self._shown: dict[tuple[str, str], _Found] = {}  # entities of interactions by surface and type
        self._repeated = 0
        self._absent: dict[str, Counter[str]] = {name: Counter() for name in _RECORDS}  # rows by field
        self._with_at: Counter[str] = Counter()  # ids with an @ by table
        self._broken: dict[str, Counter[str]] = {name: Counter() for name in _RECORDS}  # rows by field

    def add(self, name: str, rows: pa.Table) -> None:
        """Read rows of a table. The rows of each table can come in any parts."""
        self._rows[name] += rows.num_rows
        if name == "interactions":
            pairs = rows.group_by(["surface", "action"]).aggregate([("interaction_id", "count")])
            for row in pairs.to_pylist():
                self._actions[row["surface"], row["action"]] += row["interaction_id_count"]
        if name == "entities":
            for kind in pc.unique(rows["entity_type"]).to_pylist():
                ids = rows.filter(pc.equal(rows["entity_type"], kind))["entity_id"]
                self._types.setdefault(kind, _Found()).add(ids)
        if name in _RECORDS:
            self._add_records(name, rows)

    def add_shard(self, interactions: pa.Table, entities: pa.Table) -> None:
        """Read all interactions of some members, and the types of their entities.

        Args:
            interactions: Rows of the table.
            entities: The columns entity_id and entity_type; at least of the entities of the interactions.
        """
        self._repeated += interactions.num_rows - interactions.group_by(_EVENT).aggregate([]).num_rows
        places = pc.index_in(interactions["entity_id"], value_set=entities["entity_id"].combine_chunks())
        types = entities["entity_type"].combine_chunks().take(places.combine_chunks())
        shown = pa.table({"surface": interactions["surface"], "type": types, "entity_id": interactions["entity_id"]})
        for row in shown.group_by(["surface", "type"]).aggregate([]).to_pylist():
            surface, kind = row["surface"], row["type"]
            of_pair = pc.and_(pc.equal(shown["surface"], surface), pc.equal(shown["type"], kind))
            self._shown.setdefault((surface, kind), _Found()).add(shown.filter(of_pair)["entity_id"])

    def null_shares(self) -> dict[str, float]:
        """Return the share of rows in which each field of a profile or an entity is absent, by `table.field`."""
        return {
            f"{name}.{field_name}": absent / max(1, self._rows[name])
            for name, fields in self._absent.items()
            for field_name, absent in fields.items()
        }

    def problems(self, suite: TaskSuite) -> list[Problem]:
        """Compare what was read with what the suite knows."""
        return [
            *self._interaction_problems(suite),
            *self._type_problems(suite),
            *self._field_problems(suite),
            *self._text_problems(),
        ]

    def _add_records(self, name: str, rows: pa.Table) -> None:
        """Count absent fields, ids that are contacts, and texts that another program decoded with a wrong encoding."""
        key, column = _RECORDS[name]
        self._with_at[name] += pc.sum(pc.match_substring(rows[key], "@")).as_py() or 0
        for field_ in rows.schema.field(column).type:
            values = pc.struct_field(rows[column], field_.name)
            absent = pc.is_null(values)
            if pa.types.is_string(field_.type):
                absent = pc.fill_null(pc.equal(values, ""), True)
                self._broken[name][field_.name] += pc.sum(pc.match_substring(values, "\ufffd")).as_py() or 0
            self._absent[name][field_.name] += pc.sum(absent).as_py() or 0

    def _interaction_problems(self, suite: TaskSuite) -> list[Problem]:
        problems = []
        known = {surface.name: [action.name for action in surface.actions] for surface in suite.surfaces}
        unknown_surfaces: Counter[str] = Counter()
        for (surface, action), count in self._actions.items():
            if surface not in known:
                unknown_surfaces[surface] += count
            elif action not in known[surface]:
                message = f"action {action!r} is unknown on surface {surface!r}. {suggest(action, known[surface])}"
                problems.append(Problem(table="interactions", message=message, count=count))
        for surface, count in unknown_surfaces.items():
            message = f"surface {surface!r} is not in suite {suite.name}. {suggest(surface, known)}"
            problems.append(Problem(table="interactions", message=message, count=count))
        if self._repeated:
            message = f"rows repeat an earlier row in {', '.join(_EVENT)}; the model sees them twice."
            problems.append(Problem(table="interactions", message=message, count=self._repeated, is_error=False))
        present = {surface for surface, _ in self._actions}
        for task in suite.tasks:
            if task.surface not in present:
                message = f"task {task.name} has no interactions: no row is on surface {task.surface!r}."
                problems.append(Problem(table="interactions", message=message, is_error=False))
        return problems

    def _type_problems(self, suite: TaskSuite) -> list[Problem]:
        problems = []
        for name, found in self._types.items():
            if name not in suite.entities:
                message = f"entity_type {name!r} has no template in suite {suite.name}. {suggest(name, suite.entities)}"
                problems.append(Problem(table="entities", message=message, count=found.count, examples=found.examples))
        for surface in suite.surfaces:
            others = [
                found
                for (shown_on, kind), found in self._shown.items()
                if shown_on == surface.name and kind != surface.entity_type
            ]
            if others and surface.entity_type in suite.entities:
                message = (
                    f"surface {surface.name!r} shows entities of type {surface.entity_type!r}, but these rows name "
                    f"entities of another type."
                )
                count = sum(found.count for found in others)
                examples = [id_ for found in others for id_ in found.examples][:EXAMPLES]
                problems.append(Problem(table="interactions", message=message, count=count, examples=examples))
        return problems

    def _field_problems(self, suite: TaskSuite) -> list[Problem]:
        problems = []
        shares = self.null_shares()
        templates: list[tuple[str, str, Sequence[str]]] = [
            ("members", "the profile", suite.profile.fields),
            *(
                ("entities", f"entities.{name}", template.fields)
                for name, template in suite.entities.items()
                if name in self._types
            ),
        ]
        for table, place, used in templates:
            known = list(self._absent[table])
            added = NETWORK_FIELDS if table == "members" and self._rows["connections"] else ()  # by `add_network`
            for name in used:
                if name not in known and name in added:
                    continue
                if name not in known:
                    message = (
                        f"suite {suite.name} uses the field {name!r} in {place}, which the {table} lack. "
                        f"{suggest(name, _unused(known, used))} Map the field, or remove it from the suite."
                    )
                    problems.append(Problem(table=table, message=message))
                elif (share := shares[f"{table}.{name}"]) > WARNING_SHARE:
                    message = f"the field {name!r} of {place} is absent in {share:.0%} of the rows."
                    problems.append(Problem(table=table, message=message, is_error=False))
        return problems

    def _text_problems(self) -> list[Problem]:
        problems = []
        for table, (key, _) in _RECORDS.items():
            if contacts := self._with_at[table]:
                message = f"{key} has an @: an e-mail address as an id is personal data. Set privacy.pseudonyms."
                problems.append(Problem(table=table, message=message, count=contacts, is_error=False))
            for name, count in self._broken[table].items():
                if count:
                    message = (
                        f"the field {name!r} has the replacement character U+FFFD: the text was decoded with the "
                        f"wrong encoding before. Export it again."
                    )
                    problems.append(Problem(table=table, message=message, count=count, is_error=False))
        return problems


def _unused(known: Iterable[str], used: Sequence[str]) -> list[str]:
    return [name for name in known if name not in used]
