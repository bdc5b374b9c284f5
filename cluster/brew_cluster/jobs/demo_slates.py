"""Selects the members and candidates that the demo ranks over HTTP, from interactions after the cut."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brew_data.prompts.suite import TaskSuite
from brew_data.schema import Tables, micros
from brew_data.split import Split

__all__ = ["DemoSlate", "choose_slates"]


@dataclass(frozen=True, kw_only=True)
class DemoSlate:
    """A ranking request of the demo: a member, a task, and the entities to rank."""

    task: str
    member_id: str
    candidates: list[str]


def choose_slates(tables: Tables, suite: TaskSuite, split: Split, *, count: int, size: int) -> list[DemoSlate]:
    """Choose slates, each for another member; the tasks take turns.

    A slate contains the entities that the member saw after the cut, and then entities that other members saw.

    Args:
        tables: The tables of any source; members who opted out are excluded.
        suite: The tasks.
        split: Candidates are from interactions of the benchmark.
        count: The number of slates. There are fewer if the benchmark has fewer members.
        size: The number of candidates per slate. There are fewer if the task has fewer entities.

    Returns:
        The slates. The order of members is shuffled with a fixed seed, so equal tables give equal slates.
    """
    rng = np.random.default_rng(0)
    taking_part = tables.members.filter(pc.invert(tables.members["opted_out"]))["member_id"].to_pylist()
    times = micros(tables.interactions).to_numpy()
    later = tables.interactions.filter(pa.array((times > split.benchmark_after) & (times <= split.until)))
    shown: dict[tuple[str, str], list[str]] = {}
    for member, surface, entity in zip(
        later["member_id"].to_pylist(), later["surface"].to_pylist(), later["entity_id"].to_pylist(), strict=True
    ):
        for task_on_surface in suite.tasks_of(surface):
            shown.setdefault((member, task_on_surface.name), []).append(entity)
    names = [task.name for task in suite.tasks]
    slates: list[DemoSlate] = []
    for member in rng.permutation(sorted(taking_part)).tolist():
        if len(slates) == count:
            break
        task = names[len(slates) % len(names)]
        own = shown.get((member, task), [])
        if own:
            others = rng.permutation(sorted({e for (_, name), seen in shown.items() if name == task for e in seen}))
            candidates = list(dict.fromkeys([*own, *others.tolist()]))[:size]
            slates.append(DemoSlate(task=task, member_id=member, candidates=candidates))
    return slates
