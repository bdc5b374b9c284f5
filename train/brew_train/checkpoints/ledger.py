"""The ledger of the bins of each step, and an audit that each bin was trained on once per epoch.

    ledger/step-00000020-5f0c1a2b.json     steps 11 to 20, and a reference to the previous segment; never deleted

Every segment refers to its parent. Segments of steps that were lost and repeated are not ancestors of a later
checkpoint. So the chain from the newest checkpoint back to step 1 contains exactly the bins that its weights were
trained on.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from brew_platform.errors import DataError
from brew_train.checkpoints.manifest import CHECKPOINTS, LedgerReference, peek_checkpoint, seal, unseal

__all__ = ["LEDGER", "Audit", "LedgerStep", "audit", "exactly_once", "read_ledger", "write_segment"]

LEDGER = "ledger"  # name in the run folder
PROOF = ": the weights are intact, but the bins that they were trained on are unknown; restore that file."


@dataclass(frozen=True, kw_only=True)
class LedgerStep:
    """The bins of one step over all workers."""

    step: int  # number over all stages, from 1
    stage: str  # name of the stage
    bins: list[int]  # ids in the order of training
    skipped: bool = False  # whether the weights were not updated (StageConfig.on_bad_step)


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Result of a successful audit."""

    steps: int  # number of steps
    bins: dict[str, list[int]]  # number of bins in each epoch, by stage
    skipped: dict[str, list[int]]  # ids of the bins of skipped steps, by stage


def write_segment(
    folder: Path, name: str, steps: Sequence[LedgerStep], parent: LedgerReference | None
) -> LedgerReference:
    """Writes a segment with the steps of one checkpoint.

    Args:
        folder: the ledger folder; created if it does not exist.
        name: name of the checkpoint folder.
        steps: the steps after those of `parent`, at least one, all of the same stage.
        parent: the segment of the previous checkpoint; None for the first.

    Returns:
        A reference to the segment.

    Raises:
        OSError: the segment could not be written; no file is left.
    """
    numbers = [step.step for step in steps]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), f"steps {numbers} are not consecutive"
    assert len({step.stage for step in steps}) == 1, "the steps of a segment belong to one stage"
    folder.mkdir(parents=True, exist_ok=True)
    body = {
        "first_step": numbers[0],
        "last_step": numbers[-1],
        "stage": steps[0].stage,
        "bins": [step.bins for step in steps],
        "skipped": [step.step for step in steps if step.skipped],
        "parent": asdict(parent) if parent else None,
    }
    return seal(folder / f"{name}.json", body)


def read_ledger(folder: Path, newest: LedgerReference | None) -> list[LedgerStep]:
    """Returns all steps up to those of segment `newest`, which is followed back through its ancestors.

    Args:
        folder: the ledger folder.
        newest: reference to the newest segment; None: no steps.

    Raises:
        DataError: a segment is missing, altered, or does not follow its parent.
    """
    segments: list[dict[str, Any]] = []
    reference = newest
    while reference is not None:
        body = _read_segment(folder, reference)
        if segments and body["last_step"] != segments[-1]["first_step"] - 1:
            raise DataError(
                f"the ledger in {folder} has a gap: {reference.name} ends with step {body['last_step']}, and the next "
                f"segment starts with step {segments[-1]['first_step']}."
            )
        segments.append(body)
        reference = LedgerReference(**body["parent"]) if body["parent"] else None
    if segments and segments[-1]["first_step"] != 1:
        raise DataError(f"the ledger in {folder} starts with step {segments[-1]['first_step']} instead of 1.")
    return [
        LedgerStep(step=number, stage=body["stage"], bins=bins, skipped=number in body["skipped"])
        for body in reversed(segments)
        for number, bins in enumerate(body["bins"], start=body["first_step"])
    ]


def exactly_once(steps: Iterable[LedgerStep], n_bins: Mapping[str, int]) -> Audit:
    """Checks that each stage trained on each of its bins exactly once per epoch.

    Args:
        steps: all steps, from the first.
        n_bins: number of bins in the plan of each stage; their ids are 0 to n_bins - 1.

    Returns:
        The number of steps, and the bins of each stage.

    Raises:
        DataError: a bin was trained on twice or never in an epoch, or is not in the plan.
    """
    taken: dict[str, list[int]] = {}
    skipped: dict[str, list[int]] = {}
    count = 0
    for step in steps:
        count += 1
        taken.setdefault(step.stage, []).extend(step.bins)
        skipped.setdefault(step.stage, []).extend(step.bins if step.skipped else [])
    bins: dict[str, list[int]] = {}
    for stage, ids in taken.items():
        if stage not in n_bins:
            raise DataError(
                f"the ledger has steps of stage {stage}, but only the bins of {', '.join(n_bins)} are known: pass the "
                f"bins of every stage."
            )
        size = n_bins[stage]
        epochs = [ids[start : start + size] for start in range(0, len(ids), size)]
        for number, epoch in enumerate(epochs):
            _check_epoch(epoch, size, f"stage {stage}, epoch {number}")
        bins[stage] = [len(epoch) for epoch in epochs]
    return Audit(steps=count, bins=bins, skipped=skipped)


def audit(run: Path, n_bins: Mapping[str, int]) -> Audit:
    """Reads the ledger of a run from its newest checkpoint, and checks it with `exactly_once`.

    Args:
        run: the run folder.
        n_bins: number of bins in the plan of each stage.

    Returns:
        The number of steps, and the bins of each stage.

    Raises:
        DataError: there is no checkpoint, its ledger is damaged, or a bin was not trained on exactly once per epoch.
    """
    checkpoint = peek_checkpoint(run / CHECKPOINTS)
    if checkpoint is None:
        raise DataError(f"{run} has no complete checkpoint, so there is no ledger to audit.")
    steps = read_ledger(run / LEDGER, checkpoint.ledger)
    if len(steps) != checkpoint.step:
        raise DataError(
            f"the ledger of {run} has {len(steps)} steps, but its newest checkpoint is of step {checkpoint.step}."
        )
    return exactly_once(steps, n_bins)


def _read_segment(folder: Path, reference: LedgerReference) -> dict[str, Any]:
    try:
        body = unseal(folder / reference.name, sha256=reference.sha256)
    except FileNotFoundError as error:
        raise DataError(f"the ledger in {folder} lacks {reference.name}{PROOF}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"the ledger in {folder} is damaged ({error}){PROOF}") from error
    return body


def _check_epoch(ids: list[int], size: int, where: str) -> None:
    counts = Counter(ids)
    if unknown := [i for i in counts if not 0 <= i < size]:
        raise DataError(f"{where}: bin {unknown[0]} was used, but the plan has bins 0 to {size - 1}.")
    never = next((f", and bin {i} never" for i in range(size) if len(ids) == size and i not in counts), "")
    if repeated := [i for i, times in counts.items() if times > 1]:  # without any, a full epoch has every bin
        raise DataError(f"{where}: bin {repeated[0]} was used {counts[repeated[0]]} times{never}.")
