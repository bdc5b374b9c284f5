"""The ledger: each bin is used exactly once per epoch, also after losses and repeated steps; damage is found."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from brew_platform.errors import DataError
from brew_train.checkpoints.checkpointer import Checkpointer
from brew_train.checkpoints.ledger import LEDGER, LedgerStep, audit, exactly_once, read_ledger, write_segment
from brew_train.checkpoints.manifest import LedgerReference
from brew_train.distributed.context import DistributedContext
from brew_train.inputs.bin_order import BinOrder

STAGES = {"cpt": 7, "sft": 5}  # bins in each plan
STEPS = 10  # of each stage


def uninterrupted(per_step: int) -> list[LedgerStep]:
    """The steps of a run, as the loop takes them."""
    steps: list[LedgerStep] = []
    for stage, n_bins in STAGES.items():
        order = BinOrder(n_bins=n_bins, plan_hash=stage, seed=3)
        state = order.start()
        for _ in range(STEPS):
            ids, state = order.take(state, per_step)
            number = len(steps) + 1
            steps.append(LedgerStep(step=number, stage=stage, bins=ids.tolist(), skipped=number % 5 == 0))
    return steps


def killed(
    folder: Path, steps: list[LedgerStep], *, every: int, kills: list[tuple[int, int]]
) -> LedgerReference | None:
    """Checkpointer `steps` as a run does that is killed again and again; returns the last segment.

    Args:
        kills: (steps of the attempt, checkpoints lost with it): where each attempt ends, and how many of its newest
            checkpoints are damaged, so that the next attempt falls back past them.
    """
    names = itertools.count()
    checkpointer: list[tuple[int, LedgerReference | None]] = [(0, None)]  # steps done, ledger
    for life, lost in [*kills, (len(steps), 0)]:
        del checkpointer[max(1, len(checkpointer) - lost) :]
        done, parent = checkpointer[-1]
        begun = done
        for step in steps[done : done + life]:
            stage_step = (step.step - 1) % STEPS + 1
            if stage_step % every == 0 or stage_step == STEPS:
                since = steps[begun : step.step]
                parent = write_segment(folder, f"step-{step.step:08d}-{next(names):08x}", since, parent)
                begun = step.step
                checkpointer.append((begun, parent))
    return checkpointer[-1][1]


@settings(max_examples=30, deadline=None)
@given(
    per_step=st.integers(1, 6),
    every=st.integers(2, 6),
    kills=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3)), max_size=5),
)
def test_after_any_kills_each_bin_is_used_once_per_epoch(
    per_step: int, every: int, kills: list[tuple[int, int]]
) -> None:
    expected = uninterrupted(per_step)
    with TemporaryDirectory() as name:  # one tmp_path would serve all examples
        newest = killed(Path(name), expected, every=every, kills=kills)
        steps = read_ledger(Path(name), newest)
    assert steps == expected
    found = exactly_once(steps, STAGES)
    assert found.steps == len(steps)
    for stage, n_bins in STAGES.items():
        full, rest = divmod(per_step * STEPS, n_bins)
        assert found.bins[stage] == [n_bins] * full + [rest] * (rest > 0)
    assert found.skipped["cpt"] == expected[4].bins + expected[9].bins


@pytest.mark.parametrize(
    ("bins", "text"),
    [
        ([[0, 1], [2, 0], [1, 2]], None),  # the epoch ends within a step
        ([[0, 1], [2, 0], [1]], None),  # the last one is not complete
        ([[0, 1], [0, 1], [2, 0], [1, 2]], r"epoch 0: bin 0 was used 2 times, and bin 2 never"),
        ([[0, 1], [1, 2]], r"epoch 0: bin 1 was used 2 times, and bin 2 never"),
        ([[0, 1], [2, 0], [0]], r"epoch 1: bin 0 was used 2 times\."),
        ([[0, 1], [3]], r"epoch 0: bin 3 was used, but the plan has bins 0 to 2"),
    ],
)
def test_a_bin_used_twice_or_never_is_found(bins: list[list[int]], text: str | None) -> None:
    steps = [LedgerStep(step=number + 1, stage="cpt", bins=ids) for number, ids in enumerate(bins)]
    if text is None:
        assert sum(exactly_once(steps, {"cpt": 3}).bins["cpt"]) == sum(map(len, bins))
    else:
        with pytest.raises(DataError, match=f"stage cpt, {text}"):
            exactly_once(steps, {"cpt": 3})


def test_a_stage_without_a_plan_is_refused() -> None:
    with pytest.raises(DataError, match="steps of stage dpo, but only the bins of cpt, sft are known"):
        exactly_once([LedgerStep(step=1, stage="dpo", bins=[3])], STAGES)


@pytest.fixture
def run(tmp_path: Path, alone: DistributedContext) -> Path:
    """A run folder with three checkpoints of two steps each, and the leftovers of an attempt that was lost."""
    tensors = {"w": torch.zeros(3)}
    order = BinOrder(n_bins=7, plan_hash="", seed=0)

    def train(checkpointer: Checkpointer, *, first: int, last: int) -> None:
        for step in range(first, last, 2):
            taken = [order.take(order.start(), 2 * (step + i))[0][-2:].tolist() for i in (0, 1)]
            ledger = [LedgerStep(step=step + i, stage="cpt", bins=bins) for i, bins in enumerate(taken)]
            checkpointer.begin(tensors, {}, step=step + 1, ledger=ledger)

    with Checkpointer(tmp_path / "checkpoints", keep=2, context=alone) as checkpointer:
        train(checkpointer, first=1, last=5)
    lost = checkpointer.wait()
    assert lost is not None
    (lost.folder / "manifest.json").unlink()  # it was never finished
    with Checkpointer(tmp_path / "checkpoints", keep=2, context=alone) as checkpointer:
        assert checkpointer.newest() is not None
        train(checkpointer, first=3, last=7)
        checkpointer.wait()
    return tmp_path


def test_the_ledger_of_a_run_outlives_its_checkpoints(run: Path) -> None:
    assert len(list((run / "checkpoints").iterdir())) == 2
    assert len(list((run / LEDGER).iterdir())) == 4  # also that of the lost checkpoint
    found = audit(run, {"cpt": 7})
    assert (found.steps, found.bins) == (6, {"cpt": [7, 5]})


def newest(run: Path) -> Path:
    return max((run / LEDGER).iterdir())


def oldest(run: Path) -> Path:
    return min((run / LEDGER).iterdir())


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def reseal(path: Path) -> None:
    """Alters a segment consistently, so that only its successor reveals the change."""
    body = json.loads(path.read_text())["body"]
    body["bins"][0] = body["bins"][1]
    path.unlink()
    steps = [LedgerStep(step=n + 1, stage="cpt", bins=bins) for n, bins in enumerate(body["bins"])]
    write_segment(path.parent, path.stem, steps, None)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda run: newest(run).unlink(), "lacks step-00000006-.*restore that file"),
        (lambda run: oldest(run).unlink(), "lacks step-00000002-"),
        (lambda run: edit(newest(run), '"bins": [[', '"bins": [[1, '), "its step-00000006-.* was altered"),
        (lambda run: reseal(oldest(run)), "its step-00000002-.* was altered"),
        (lambda run: newest(run).write_text('{"body": '), "its step-00000006-.* is incomplete"),
    ],
)
def test_a_segment_that_is_missing_or_altered_is_found(run: Path, damage: Callable[[Path], object], text: str) -> None:
    damage(run)
    with pytest.raises(DataError, match=text):
        audit(run, {"cpt": 7})


def test_missing_steps_between_segments_are_found(tmp_path: Path) -> None:
    first_step, second_step, fourth_step = (LedgerStep(step=step, stage="cpt", bins=[step]) for step in (1, 2, 4))
    first = write_segment(tmp_path, "a", [first_step], None)
    with pytest.raises(DataError, match=r"a gap: a.json ends with step 1, and the next segment starts with step 4"):
        read_ledger(tmp_path, write_segment(tmp_path, "b", [fourth_step], first))
    with pytest.raises(DataError, match="starts with step 2 instead of 1"):
        read_ledger(tmp_path, write_segment(tmp_path, "c", [second_step], None))
    with pytest.raises(DataError, match="has no complete checkpoint"):
        audit(tmp_path, {"cpt": 7})


def test_a_checkpoint_without_its_steps_is_found(tmp_path: Path, alone: DistributedContext) -> None:
    with Checkpointer(tmp_path / "checkpoints", keep=1, context=alone) as checkpointer:
        step = LedgerStep(step=1, stage="cpt", bins=[0])
        checkpointer.begin({"w": torch.zeros(1)}, {}, step=1, ledger=[step])
        checkpointer.begin({"w": torch.zeros(1)}, {}, step=2, ledger=[])
    with pytest.raises(DataError, match="has 1 steps, but its newest checkpoint is of step 2"):
        audit(tmp_path, {"cpt": 7})
