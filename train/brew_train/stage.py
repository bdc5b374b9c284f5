"""The state of a stage in training: its bins, the position in them, its optimizer and its reference."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from brew_platform.errors import UserError
from brew_train.checkpoints.checkpointer import Checkpoint, Checkpointer
from brew_train.checkpoints.state import CheckpointState
from brew_train.config import StageConfig, TrainConfig
from brew_train.evaluation import ReferenceIdentity, compute_reference, digest_weights, evaluate, load_reference
from brew_train.inputs.bin_order import BinOrder, BinOrderState
from brew_train.inputs.bin_reader import BinReader
from brew_train.inputs.prefetcher import Prefetcher
from brew_train.model.model import RankingLM
from brew_train.model.sharding import compute_dtype
from brew_train.objectives.base import make_objective
from brew_train.optim.factory import make_optimizer
from brew_train.run_context import RunContext
from brew_train.step import ReferenceLogProbs, StepResult, share, take_step
from brew_train.train_state import TrainState

__all__ = ["RunningStage", "seed_step"]


class RunningStage:
    """A stage in training. Its next step is the first one, or the one after a checkpoint. Close it after its last step.

    Args:
        config: settings of the run.
        index: index of the stage in `config.stages`.
        model: the model, with the weights that the stage starts from; a checkpoint overwrites them.
        run: data, run folder and workers. The reference log-probabilities of a stage are in `out/reference/`.
        resume: the checkpointer and a checkpoint of this stage; None: start the stage.

    Raises:
        UserError: the bins do not fit the model, or the checkpoint belongs to another plan, model or beta1.
        DataError: the bins are damaged.
    """

    def __init__(
        self,
        config: TrainConfig,
        index: int,
        *,
        model: RankingLM,
        run: RunContext,
        resume: tuple[Checkpointer, Checkpoint] | None,
    ) -> None:
        self.settings: StageConfig = config.stages[index]
        self.name, self.model = self.settings.name, model
        self._config, self._context = config, run.distributed
        self.bins = self._open(run.bins, run)
        self.held_out = self._open(run.evaluation, run) if self.settings.evaluate_every else None
        self._order = BinOrder(n_bins=self.bins.n_bins, plan_hash=self.bins.plan_hash, seed=config.seed)
        self.position = self._order.start()
        self.optimizer = make_optimizer(model, self.settings)
        saved = None
        if resume is not None:
            checkpointer, checkpoint = resume
            checkpointer.read(checkpoint, self.optimizer.tensors())
            saved = CheckpointState.of(checkpoint)
            if saved.average_weight != self.optimizer.average_weight:
                raise UserError(
                    f"the checkpoint of stage {self.name} was trained with another beta1, so that its averaged weights "
                    f"cannot be computed from it: restore beta1, or choose a new run folder."
                )
            self.optimizer.restore_scalars(saved.optimizer)
            self.position = saved.position
        references = [
            (self.bins, run.out / "reference" / f"{self.name}.npz"),
            (self.held_out, run.out / "reference" / f"{self.name}-evaluation.npz"),
        ]
        self._reference_weights = self._digest_reference(saved)
        if saved is None:
            for reader, path in references:
                if reader is not None and self._reference_weights is not None:
                    compute_reference(model, reader, path, self._identity(reader), self._context)
        self._reference, self._held_reference = (self._load(reader, path) for reader, path in references)
        steps_done = saved.train_state.stage_step if saved else 0
        self._prefetcher = Prefetcher(
            self.bins,
            self._coming_steps(self.position, self.settings.steps - steps_done),
            limit_bytes=config.inputs.prefetch_bytes,
        )

    def _digest_reference(self, saved: CheckpointState | None) -> str | None:
        """Returns the digest of the weights that the stage starts from; None if its objective needs no reference."""
        if not make_objective(self.settings.objective).needs_reference:
            return None
        if saved is None:
            precision = compute_dtype(self._config.precision, self._context.device)
            return digest_weights(self.model, self._context, precision=str(precision))
        if saved.reference_weights is None:
            raise UserError(
                f"the checkpoint of stage {self.name} does not say which weights its reference has: it was written by "
                f"an older release, or the objective of the stage has changed; choose a new run folder."
            )
        return saved.reference_weights

    def _identity(self, reader: BinReader) -> ReferenceIdentity:
        assert self._reference_weights is not None
        return ReferenceIdentity(
            objective=self.settings.objective["name"], weights=self._reference_weights, plan_hash=reader.plan_hash
        )

    def _open(self, folders: Mapping[str, Path | str], run: RunContext) -> BinReader:
        return self._context.on_all(lambda: BinReader(folders[self.name], run.shape, self._config.inputs))

    def _load(self, reader: BinReader | None, path: Path) -> ReferenceLogProbs | None:
        if self._reference_weights is None or reader is None:
            return None
        return self._context.on_all(lambda: load_reference(path, reader, self._identity(reader)))

    def step(self, number: int, mean_loss: float | None) -> tuple[StepResult, list[int]]:
        """Trains on the next bins.

        Args:
            number: number of steps of the run before this one. The random numbers of the step are a function of the
                seed, this number and the rank.
            mean_loss: running mean of the stage's losses; None: no loss is known yet.

        Returns:
            The result of the step, and the ids of its bins over all workers.

        Raises:
            UserError: the error of `take_step`, with the names of the stage and the step.
        """
        bin_ids, position = self._order.take(self.position, self.settings.bins_per_step)
        seed_step(self._config.seed, number, self._context.rank)
        try:
            result = take_step(
                self.model,
                self.optimizer,
                self.settings,
                self._prefetcher,
                bin_ids,
                self._context,
                sharding=self._config.sharding,
                reference=self._reference,
                mean_loss=mean_loss,
            )
        except UserError as error:
            raise UserError(f"stage {self.settings.name}, step {number + 1}: {error}") from error
        self._prefetcher.advance()
        self.position = position
        return result, bin_ids.tolist()

    def close(self) -> None:
        """Stops reading bins ahead."""
        self._prefetcher.close()

    def _coming_steps(self, position: BinOrderState, steps: int) -> Iterator[list[int]]:
        """Yields the ids of this worker's bins in each coming step. Runs in the thread of the prefetcher."""
        order = BinOrder(n_bins=self.bins.n_bins, plan_hash=self.bins.plan_hash, seed=self._config.seed)
        for _ in range(steps):
            bin_ids, position = order.take(position, self.settings.bins_per_step)
            yield np.concatenate(share(bin_ids, self._context, self.settings.micro_steps)).tolist()

    def evaluate(self) -> dict[str, float | None]:
        """Returns loss and measures of the averaged weights on the evaluation bins; keeps the training weights."""
        assert self.held_out is not None, "the stage does not evaluate"
        with self.optimizer.averaged():
            return evaluate(self.model, self.settings, self.held_out, self._context, reference=self._held_reference)

    def state(self, train_state: TrainState) -> CheckpointState:
        """Returns the state for a checkpoint, which also holds `optimizer.tensors()`."""
        return CheckpointState(
            stage=self.name,
            train_state=train_state,
            position=self.position,
            seed=self._config.seed,
            optimizer=self.optimizer.scalars(),
            average_weight=self.optimizer.average_weight,
            reference_weights=self._reference_weights,
        )


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seeds torch for one step of one worker with a pure function of the arguments.

    Args:
        seed: seed of the run.
        step: number of steps of the run before this one.
        rank: rank of the worker.
    """
    (state,) = np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)
    torch.manual_seed(int(state))
