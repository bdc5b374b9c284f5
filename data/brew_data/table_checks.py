"""Checks of tables against a task suite, before anything is compiled."""

from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from brew_data.problems import Problem, suggest
from brew_data.prompts.suite import TaskSuite
from brew_data.schema import Tables

__all__ = ["check_tables", "null_shares"]

EXAMPLES = 3
WARNING_SHARE = 0.5  # a template field that is absent in more rows is reported


_EVENT = ["member_id", "entity_id", "surface", "action", "timestamp"]


def check_tables(tables: Tables, suite: TaskSuite) -> list[Problem]:
    """Compare surfaces, actions, entity types and fields of the tables with those that the suite knows.

    Args:
        tables: From `clean_tables`.
        suite: The suite.
    """
    return [
        *_interaction_problems(tables, suite),
        *_type_problems(tables, suite),
        *_field_problems(tables, suite),
        *_text_problems(tables),
    ]


def null_shares(tables: Tables) -> dict[str, float]:
    """Return the share of rows in which each field of a profile or an entity is absent, by `table.field`."""
    shares: dict[str, float] = {}
    for table, column in (("members", "profile"), ("entities", "fields")):
        rows: pa.Table = getattr(tables, table)
        for field in rows.schema.field(column).type:
            values = pc.struct_field(rows[column], field.name)
            absent = pc.fill_null(pc.equal(values, ""), True) if pa.types.is_string(field.type) else pc.is_null(values)
            shares[f"{table}.{field.name}"] = pc.mean(absent.cast(pa.int64())).as_py() or 0.0
    return shares


def _interaction_problems(tables: Tables, suite: TaskSuite) -> list[Problem]:
    problems = []
    known = {surface.name: [action.name for action in surface.actions] for surface in suite.surfaces}
    rows = tables.interactions
    pairs = rows.group_by(["surface", "action"]).aggregate([("interaction_id", "count"), ("interaction_id", "min")])
    unknown_surfaces: dict[str, int] = {}
    for row in pairs.to_pylist():
        surface, action, count = row["surface"], row["action"], row["interaction_id_count"]
        if surface not in known:
            unknown_surfaces[surface] = unknown_surfaces.get(surface, 0) + count
        elif action not in known[surface]:
            message = f"action {action!r} is unknown on surface {surface!r}. {suggest(action, known[surface])}"
            problems.append(Problem(table="interactions", message=message, count=count))
    for surface, count in unknown_surfaces.items():
        message = f"surface {surface!r} is not in suite {suite.name}. {suggest(surface, known)}"
        problems.append(Problem(table="interactions", message=message, count=count))
    repeated = rows.num_rows - rows.group_by(_EVENT).aggregate([]).num_rows
    if repeated:
        message = f"rows repeat an earlier row in {', '.join(_EVENT)}; the model sees them twice."
        problems.append(Problem(table="interactions", message=message, count=repeated, is_error=False))
    present = set(pc.unique(rows["surface"]).to_pylist())
    for task in suite.tasks:
        if task.surface not in present:
            message = f"task {task.name} has no interactions: no row is on surface {task.surface!r}."
            problems.append(Problem(table="interactions", message=message, is_error=False))
    return problems


def _type_problems(tables: Tables, suite: TaskSuite) -> list[Problem]:
    problems = []
    types = tables.entities["entity_type"]
    for name in pc.unique(types).to_pylist():
        if name not in suite.entities:
            rows = tables.entities.filter(pc.equal(types, name))
            message = f"entity_type {name!r} has no template in suite {suite.name}. {suggest(name, suite.entities)}"
            examples = rows["entity_id"].slice(0, EXAMPLES).to_pylist()
            problems.append(Problem(table="entities", message=message, count=rows.num_rows, examples=examples))
    for surface in suite.surfaces:
        shown = tables.interactions.filter(pc.equal(tables.interactions["surface"], surface.name))
        right = tables.entities.filter(pc.equal(types, surface.entity_type))["entity_id"].combine_chunks()
        wrong = shown.filter(pc.invert(pc.is_in(shown["entity_id"], value_set=right)))
        if wrong.num_rows and surface.entity_type in suite.entities:
            message = (
                f"surface {surface.name!r} shows entities of type {surface.entity_type!r}, but these rows name "
                f"entities of another type."
            )
            examples = [str(id_) for id_ in pc.unique(wrong["entity_id"]).slice(0, EXAMPLES).to_pylist()]
            problems.append(Problem(table="interactions", message=message, count=wrong.num_rows, examples=examples))
    return problems


def _field_problems(tables: Tables, suite: TaskSuite) -> list[Problem]:
    problems = []
    shares = null_shares(tables)
    present = set(pc.unique(tables.entities["entity_type"]).to_pylist())
    templates: list[tuple[str, str, str, Sequence[str]]] = [
        ("members", "profile", "the profile", suite.profile.fields),
        *(
            ("entities", "fields", f"entities.{name}", template.fields)
            for name, template in suite.entities.items()
            if name in present
        ),
    ]
    for table, column, place, used in templates:
        known = [field.name for field in getattr(tables, table).schema.field(column).type]
        for name in used:
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


def _text_problems(tables: Tables) -> list[Problem]:
    """Find ids that are contacts, and texts that another program decoded with the wrong encoding."""
    problems = []
    for table, key, column in (("members", "member_id", "profile"), ("entities", "entity_id", "fields")):
        rows: pa.Table = getattr(tables, table)
        contacts = pc.sum(pc.match_substring(rows[key], "@")).as_py() or 0
        if contacts:
            message = f"{key} has an @: an e-mail address as an id is personal data. Replace ids by their hashes."
            problems.append(Problem(table=table, message=message, count=contacts, is_error=False))
        for field in rows.schema.field(column).type:
            if pa.types.is_string(field.type):
                broken = pc.match_substring(pc.struct_field(rows[column], field.name), "\ufffd")
                if count := pc.sum(broken).as_py():
                    message = (
                        f"the field {field.name!r} has the replacement character U+FFFD: the text was decoded with the "
                        f"wrong encoding before. Export it again."
                    )
                    problems.append(Problem(table=table, message=message, count=count, is_error=False))
    return problems


def _unused(known: Iterable[str], used: Sequence[str]) -> list[str]:
    return [name for name in known if name not in used]
