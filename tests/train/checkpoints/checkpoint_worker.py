"""Processes of the checkpoint tests: `checkpoint_worker.py SCENARIO ROOT [RANK SIZE]`; prints a report as JSON.

Each scenario is one function; several processes are joined by a file, without torchrun.
"""

import json
import logging
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from brew_platform.errors import StorageError
from brew_train.checkpoints.checkpointer import Checkpoint, Checkpointer
from brew_train.checkpoints.ledger import LedgerStep
from brew_train.checkpoints.manifest import MANIFEST
from brew_train.distributed.context import DistributedContext

SHAPES: dict[str, tuple[int, ...]] = {
    "model.w": (16_385, 1000),  # not a multiple of two rows
    "z.experts": (3, 8, 50),  # sharded over its second dimension
    "model.gain": (1,),  # only the first worker has a part of it
    "model.step": (),
}


def values(step: int) -> dict[str, torch.Tensor]:
    """Return the complete tensors of a checkpoint of `step`."""
    seed = torch.Generator().manual_seed(step)
    return {name: torch.randn(shape, generator=seed) for name, shape in SHAPES.items()}


def spread(tensors: dict[str, torch.Tensor], context: DistributedContext) -> dict[str, torch.Tensor]:
    if context.mesh is None:
        return tensors
    placements = {"z.experts": Shard(1), "model.step": Replicate()}
    return {
        name: distribute_tensor(tensor, context.mesh, [placements.get(name, Shard(0))])
        for name, tensor in tensors.items()
    }


def whole(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: t.full_tensor() if isinstance(t, DTensor) else t for name, t in tensors.items()}


def holds(checkpointer: Checkpointer, checkpoint: Checkpoint | None, step: int) -> bool:
    """Whether a checkpoint read back is bitwise what was begun."""
    assert checkpoint is not None
    tensors = spread({name: torch.zeros(shape) for name, shape in SHAPES.items()}, checkpointer.context)
    checkpointer.read(checkpoint, tensors)
    return checkpoint.step == step and all(torch.equal(t, values(step)[name]) for name, t in whole(tensors).items())


def begin(checkpointer: Checkpointer, tensors: dict[str, torch.Tensor], step: int) -> None:
    ledger = [LedgerStep(step=step, stage="cpt", bins=[step])]
    checkpointer.begin(tensors, {"step": step}, step=step, ledger=ledger)


def full(root: Path, context: DistributedContext) -> dict[str, Any]:
    """On a file system of 2 MB: a checkpoint that fits, three that do not, and one that fits again."""
    checkpointer = Checkpointer(root / "checkpoints", keep=2, context=context)
    checkpointer.begin({"w": torch.zeros(10_000)}, {}, step=1, ledger=[LedgerStep(step=1, stage="cpt", bins=[0])])
    checkpointer.wait()
    before = listing(root)
    errors: list[str] = []
    for _ in range(3):  # leftovers of the first would be seen here
        checkpointer.begin({"w": torch.zeros(600_000)}, {}, step=2, ledger=[])
        try:
            checkpointer.wait()
        except StorageError as error:
            errors.append(str(error))
    after = listing(root)
    checkpointer.begin({"w": torch.zeros(10_000)}, {}, step=2, ledger=[LedgerStep(step=2, stage="cpt", bins=[1])])
    checkpointer.wait()
    at_last = sorted(int(folder.name.split("-")[1]) for folder in checkpointer.root.iterdir())
    return {"errors": len(errors), "error": errors[-1], "before": before, "after": after, "at_last": at_last}


def write(root: Path, context: DistributedContext) -> dict[str, Any]:
    """Two workers: checkpoints during training, a full disk of one of them, and a kill of one."""
    report: dict[str, Any] = {}
    checkpointer = Checkpointer(root / "checkpoints", keep=3, context=context)
    tensors = spread(values(1), context)
    begin(checkpointer, tensors, 1)
    sums, overlapped = [], 0
    time.sleep(0.05 * context.rank)  # so that the workers' messages of training and of the checkpoint differ in order
    for _ in range(20):  # training continues, with its own collectives and other values
        overlapped += any(thread.name == "checkpoint" for thread in threading.enumerate())
        sums.append(context.sum_(torch.full((1000,), float(context.rank + 1))).unique().tolist())
        for tensor in tensors.values():
            tensor.fill_(7.0)
    report["sums"], report["overlapped"] = [list(s) for s in {tuple(s) for s in sums}], overlapped
    report["first"] = holds(checkpointer, checkpointer.wait(), 1)

    begin(checkpointer, spread(values(2), context), 2)  # the plan is known by now
    report["second"] = holds(checkpointer, checkpointer.wait(), 2)

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if context.rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    begin(checkpointer, spread(values(3), context), 3)
    try:
        checkpointer.wait()
    except StorageError as error:
        report["full"] = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    context.gather(None)
    report["after_full"] = listing(root)

    begin(checkpointer, spread(values(3), context), 3)
    report["third"] = holds(checkpointer, checkpointer.wait(), 3)

    begin(checkpointer, spread(values(4), context), 4)
    if context.rank == 0:
        print(json.dumps(report), flush=True)
        while not list(checkpointer.root.glob("step-00000004-*/__0_0.distcp")):
            time.sleep(0.0005)
        os.kill(os.getpid(), signal.SIGKILL)  # its file has been begun
    try:
        checkpointer.wait()
    except Exception as error:  # the error depends on where the connection breaks
        report["lost"] = type(error).__name__
    print(json.dumps(report), flush=True)
    os._exit(0)  # the process group cannot be closed without the other


def alone(root: Path, context: DistributedContext) -> dict[str, Any]:
    """One worker continues from the checkpoint of two."""
    checkpointer = Checkpointer(root / "checkpoints", keep=3, context=context)
    report: dict[str, Any] = {
        "unfinished": [(f / MANIFEST).exists() for f in checkpointer.root.glob("step-00000004-*")]
    }
    report["third"] = holds(checkpointer, checkpointer.newest(), 3)
    begin(checkpointer, values(4), 4)
    report["fourth"] = holds(checkpointer, checkpointer.wait(), 4)
    return {**report, "left": len(list(checkpointer.root.iterdir()))}


def restore(root: Path, context: DistributedContext) -> dict[str, Any]:
    """Two workers read the checkpoint of one; then a bit is flipped in a file that the second one verifies."""
    checkpointer = Checkpointer(root / "checkpoints", keep=3, context=context)
    report = {"fourth": holds(checkpointer, checkpointer.newest(), 4)}
    if context.rank == 0:
        (file,) = checkpointer.root.glob("step-00000004-*/__0_0.distcp")
        with file.open("r+b") as handle:
            handle.seek(1_000_000)
            byte = handle.read(1)[0]
            handle.seek(1_000_000)
            handle.write(bytes([byte ^ 1]))
    context.gather(None)
    report["fallen_back"] = holds(checkpointer, checkpointer.newest(), 3)
    return report


def listing(root: Path) -> list[str]:
    return sorted(f"{path.relative_to(root)} {path.stat().st_size}" for path in root.rglob("*") if path.is_file())


def main() -> None:
    scenario, root, *place = sys.argv[1:]
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    context = DistributedContext(device=torch.device("cpu"))
    if place:
        rank, size = map(int, place)
        dist.init_process_group("gloo", init_method=f"file://{root}/.join-{scenario}", rank=rank, world_size=size)
        context = DistributedContext.current()
    scenarios = {"full": full, "write": write, "alone": alone, "restore": restore}
    print(json.dumps(scenarios[scenario](Path(root), context)))
    if place:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
