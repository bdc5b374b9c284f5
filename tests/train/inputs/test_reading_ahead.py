"""A run reads exactly the bins of its steps, in their order, in the thread that reads ahead."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from brew_train.config import ModelShape, TrainConfig
from brew_train.distributed.context import DistributedContext
from brew_train.inputs.batches import Bin
from brew_train.inputs.bin_order import BinOrder
from brew_train.inputs.bin_reader import BinReader
from brew_train.loop import train
from brew_train.run_context import RunContext


class Interrupted(Exception):
    pass


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int]]:
    """The thread, the plan hash and the id of each bin that is read."""
    found: list[tuple[str, str, int]] = []
    read: Callable[[BinReader, int], Bin] = BinReader.__getitem__

    def recorded(self: BinReader, bin_id: int) -> Bin:
        found.append((threading.current_thread().name, self.plan_hash, bin_id))
        return read(self, bin_id)

    monkeypatch.setattr(BinReader, "__getitem__", recorded)
    return found


@pytest.mark.parametrize("interrupted_at", [None, 4])
def test_a_run_reads_the_bins_of_its_steps_once(
    interrupted_at: int | None,
    reads: list[tuple[str, str, int]],
    bins: dict[str, Path],
    config: TrainConfig,
    shape: ModelShape,
    alone: DistributedContext,
    tmp_path: Path,
) -> None:
    cpt, sft = config.stages
    settings = replace(config, stages=[replace(cpt, micro_steps=2), sft])

    def on_step(row: dict[str, Any]) -> None:
        if row["step"] == interrupted_at:
            raise Interrupted

    run = RunContext(bins=bins, out=tmp_path / "run", shape=shape, distributed=alone, on_step=on_step)
    first_cpt_bin = 0
    if interrupted_at is not None:
        with pytest.raises(Interrupted):
            train(settings, run)
        assert not [thread for thread in threading.enumerate() if thread.name == "bin-prefetcher"]
        reads.clear()
        interrupted_at, first_cpt_bin = None, 2 * 2  # after the checkpoint of step 2
    train(settings, run)
    assert {thread for thread, _, _ in reads} == {"bin-prefetcher"}
    for stage, first in ((cpt, first_cpt_bin), (sft, 0)):
        reader = BinReader(bins[stage.name], shape)
        order = BinOrder(n_bins=reader.n_bins, plan_hash=reader.plan_hash, seed=config.seed)
        taken, _ = order.take(order.start(), stage.steps * stage.bins_per_step)
        assert [bin_id for _, plan_hash, bin_id in reads if plan_hash == reader.plan_hash] == taken.tolist()[first:]
