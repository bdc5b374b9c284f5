"""The ledger of the bins that each step was trained on, and the audit that each bin came once per epoch.

    ledger/step-00000020-5f0c1a2b.json     steps 11 to 20, and the segment that ends with step 10; sealed, never deleted

Steps that were lost and done again are in segments that no later checkpoint descends from. So the chain from the newest
checkpoint back to step 1 holds what the weights were trained on, and nothing else.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from brew_platform.errors import DataError
from brew_train.checkpoints.manifest import CHECKPOINTS, LedgerReference, peek_checkpoint, seal, unseal

__all__ = ["LEDGER", "Audit", "LedgerStep", "audit", "exactly_once", "read_ledger", "write_segment"]

LEDGER = "ledger"  # inside the run folder
PROOF = ": the weights are unharmed, but what they were trained on cannot be shown; put that file back."


@dataclass(frozen=True, kw_only=True)
class LedgerStep:
    """One step, of all workers together."""

    step: int  # over all stages, from 1
    stage: str
    bins: list[int]  # ids, in the order in which they were taken
    skipped: bool = False  # its bins were read, but the weights left as they were (StageConfig.on_bad_step)


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What an audit found in order."""

    steps: int
    bins: dict[str, list[int]]  # by stage, for each epoch begun: bins taken, each once
    skipped: dict[str, list[int]]  # by stage, the bins of skipped steps


def write_segment(
    folder: Path, name: str, steps: Sequence[LedgerStep], parent: LedgerReference | None
) -> LedgerReference:
    """Writes the steps since `parent`'s last one, at least one, all of one stage.

    Args:
        name: of the checkpoint that the segment belongs to.

    Raises:
        OSError: the disk refused; nothing is left behind.
    """
    numbers = [step.step for step in steps]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), f"steps {numbers} are not consecutive"
    assert len({step.stage for step in steps}) == 1, "a segment is of one stage"
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
    """The steps from the first to those of segment `newest`, followed back over each segment's parent.

    Raises:
        DataError: a segment is missing, altered, or does not follow its parent.
    """
    segments: list[dict[str, Any]] = []
    reference = newest
    while reference is not None:
        body = _read_segment(folder, reference)
        if segments and body["last_step"] != segments[-1]["first_step"] - 1:
            raise DataError(
                f"the ledger in {folder} has a gap: {reference.name} ends with step {body['last_step']}, and the "
                f"segment after it begins with step {segments[-1]['first_step']}."
            )
        segments.append(body)
        reference = LedgerReference(**body["parent"]) if body["parent"] else None
    if segments and segments[-1]["first_step"] != 1:
        raise DataError(f"the ledger in {folder} begins with step {segments[-1]['first_step']} instead of 1.")
    return [
        LedgerStep(step=number, stage=body["stage"], bins=bins, skipped=number in body["skipped"])
        for body in reversed(segments)
        for number, bins in enumerate(body["bins"], start=body["first_step"])
    ]


def exactly_once(steps: Iterable[LedgerStep], n_bins: Mapping[str, int]) -> Audit:
    """Checks that each stage took all of its bins once, before it took any of them again.

    Args:
        steps: from the first.
        n_bins: by stage, the bins of its plan; their ids are 0 to n_bins - 1.

    Raises:
        DataError: naming a bin that came twice, never, or that the plan does not have.
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
            raise DataError(f"the ledger has steps of stage {stage}, but bins are given for {', '.join(n_bins)} only.")
        size = n_bins[stage]
        epochs = [ids[start : start + size] for start in range(0, len(ids), size)]
        for number, epoch in enumerate(epochs):
            _check_epoch(epoch, size, f"stage {stage}, epoch {number}")
        bins[stage] = [len(epoch) for epoch in epochs]
    return Audit(steps=count, bins=bins, skipped=skipped)


def audit(run: Path, n_bins: Mapping[str, int]) -> Audit:
    """Follows the ledger of the run folder `run` from its newest checkpoint, and checks it with `exactly_once`.

    Raises:
        DataError: there is no checkpoint, its ledger is damaged, or a bin was not taken exactly once per epoch.
    """
    checkpoint = peek_checkpoint(run / CHECKPOINTS)
    if checkpoint is None:
        raise DataError(f"{run} has no complete checkpoint, so there is no ledger to audit.")
    steps = read_ledger(run / LEDGER, checkpoint.ledger)
    if len(steps) != checkpoint.step:
        raise DataError(
            f"the ledger of {run} holds {len(steps)} steps, but its newest checkpoint is of step {checkpoint.step}."
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
        raise DataError(f"{where}: bin {unknown[0]} was taken, but the plan has bins 0 to {size - 1}.")
    never = next((f", and bin {i} never" for i in range(size) if len(ids) == size and i not in counts), "")
    if twice := [i for i, times in counts.items() if times > 1]:  # a full epoch without them lacks none either
        raise DataError(f"{where}: bin {twice[0]} was taken {counts[twice[0]]} times{never}.")
