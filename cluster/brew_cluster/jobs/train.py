"""The job of `brew360 train`: its settings, and its run on a local Ray or on a cluster."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import ray
import torch

from brew_cluster.cli.views.training import TrainView
from brew_cluster.jobs.disk_space import require_space
from brew_cluster.jobs.lineage import Lineage, parent_of
from brew_cluster.jobs.train_job import TrainJob, load_job
from brew_cluster.ray.local_ray import any_ray
from brew_cluster.ray.relauncher import Decision, relaunch
from brew_data.data_folder import DATASET_FILE, DataFolder
from brew_data.prompts.bundle import PROMPT_FILE, PromptBundle
from brew_eval.gates import validate_gates
from brew_platform.config import config_digest
from brew_platform.console.plain_console import PlainConsole
from brew_platform.errors import UserError
from brew_platform.provenance import source_commit
from brew_platform.registry.gates import Gate
from brew_platform.storage.base import open_store
from brew_platform.storage.folders import upload_folder
from brew_train.checkpoints.checkpointer import Checkpointer
from brew_train.checkpoints.export import export
from brew_train.checkpoints.export_template import ExportTemplate
from brew_train.checkpoints.manifest import CHECKPOINTS, peek_checkpoint
from brew_train.checkpoints.state import peek_state
from brew_train.config import ModelShape
from brew_train.diagnostics.dry_run import dry_run
from brew_train.distributed.context import DistributedContext
from brew_train.inputs.bin_folder import read_plan
from brew_train.loop import BEST, EXPORT, MODEL, TrainResult
from brew_train.model.base_model import require_base_model
from brew_train.ray_launcher import run_on_ray
from brew_train.validate import require_continuation

__all__ = ["TrainJob", "dry_run_job", "export_run", "load_job", "relaunch_job", "run_job", "shape_of"]

PROMPTS = "prompts"  # folder of a run: the prompts of its data
BASE_HASHES = "base-hashes.json"  # file of a run: the hashes of the files of the model that it starts from


def run_job(job: TrainJob, console: PlainConsole) -> TrainResult:
    """Trains on the Ray that RAY_ADDRESS names, else on one of this machine's own; shows how far it is.

    Raises:
        BrewError: one clear sentence about what failed; the run folder can be continued.
    """
    run = Path(job.run)
    bundle = _load_prompts(job)
    gates = _gates(job, bundle)
    require_space(run)
    run.mkdir(parents=True, exist_ok=True)
    lineage = _lineage(job, gates)
    _require_same_origin(job, lineage)
    lineage.write(run)  # for `brew360 export` of a run that has not ended
    bundle.save(run / PROMPTS)
    with _ray(job, run), TrainView(run, console, stages=job.train.stages) as view:
        result = run_on_ray(
            job.train,
            bins=job.bins,
            evaluation=job.evaluation,
            out=run,
            shape=_shape(job, bundle),
            end_token_ids=(bundle.tokenizer.end, bundle.tokenizer.user),
            on_metrics=view.update,
        )
    for folder in [result.export, *sorted((run / BEST).glob("[!.]*"))]:
        bundle.save(folder)
        lineage.write(folder)
    if job.train.mirror_url is not None:
        upload_folder(result.export, open_store(job.train.mirror_url), EXPORT)
    view.summary(result)
    return result


def relaunch_job(job: TrainJob, recipe: str, overrides: Sequence[str], *, most: int, console: PlainConsole) -> int:
    """Run `brew360 train` as a child process, and restart it when it is lost.

    Args:
        job: The settings; the checkpoints in its run folder show the progress.
        recipe: The recipe argument of the command.
        overrides: The `key=value` arguments of the command.
        most: The maximum number of losses in a row without progress.
        console: The output.

    Returns:
        The exit code of the last child.
    """
    command = [
        sys.executable,
        "-c",
        "from brew_cluster.cli.main import main; main()",
        "train",
        "--driver",
        recipe,
        *overrides,
    ]
    checkpoints = Path(job.run) / CHECKPOINTS

    def progress() -> int:
        newest = peek_checkpoint(checkpoints)
        return newest.step if newest else 0

    def on_loss(code: int, decision: Decision) -> None:
        how = f"was killed by signal {-code}" if code < 0 else f"failed with exit code {code}"
        what = (
            f"starting it again from step {progress():,}"
            if decision.again
            else "giving up; run the same command again once the cause is fixed"
        )
        console.print(f"the training driver {how}: {what}.", style="yellow")

    return relaunch(command, most=most, progress=progress, on_loss=on_loss)


def dry_run_job(job: TrainJob, gpus: int, console: PlainConsole) -> None:
    """Print the memory and communication of the job on each of `gpus` GPUs.

    The model is built and sharded as in a real run, but without a device.

    Raises:
        UserError: The job cannot run on this number of GPUs, or neither a tokenizer nor a vocabulary size is set.
    """
    dry_run(job.train, gpus=gpus, shape=shape_of(job)).render(console)


def shape_of(job: TrainJob) -> ModelShape:
    """Return the sizes that the data determine, for a model that is not trained: from the recipe or the tokenizer.

    Raises:
        UserError: Neither a tokenizer nor a vocabulary size is set.
    """
    vocabulary_size = job.vocabulary_size or PromptBundle.load(Path(job.prompts)).tokenizer.vocabulary_size
    return ModelShape(vocabulary_size=vocabulary_size, context_length=job.context_length)


def export_run(run: Path, out: Path) -> int:
    """Exports the averaged weights of the newest checkpoint in `run`, which may be training, and returns its step.

    Raises:
        UserError: there is no checkpoint yet, or `out` exists.
    """
    if out.exists():
        raise UserError(f"{out} exists: choose another folder, or remove that one.")
    context = DistributedContext(device=torch.device("cpu"))
    checkpoint = Checkpointer(run / CHECKPOINTS, keep=1, context=context).newest()
    if checkpoint is None:
        raise UserError(f"{run} has no complete checkpoint yet: wait for the first, or check the path.")
    export(checkpoint, ExportTemplate.load(run / MODEL), out, context)
    if (run / PROMPTS).is_dir():
        PromptBundle.load(run / PROMPTS).save(out)
    if lineage := Lineage.read(run):
        lineage.write(out)
    return checkpoint.step


def _gates(job: TrainJob, bundle: PromptBundle) -> list[Gate]:
    """Return the gates of the job, or else those of its data."""
    if not job.release.gates and (Path(job.data) / DATASET_FILE).is_file():
        return DataFolder.open(Path(job.data)).info.gates
    validate_gates(job.release.gates, [task.name for task in bundle.suite.tasks], has_true_probabilities=True)
    return job.release.gates


def _lineage(job: TrainJob, gates: list[Gate]) -> Lineage:
    return Lineage(
        parent=parent_of(job.train.model.init_from, record=Path(job.run) / BASE_HASHES),
        plan_hashes={name: read_plan(folder).plan_hash for name, folder in sorted(job.bins.items())},
        config_digest=config_digest(job),
        commit=source_commit(),
        gates=gates,
    )


def _require_same_origin(job: TrainJob, lineage: Lineage) -> None:
    """Raise a UserError if the run has a checkpoint of another seed, or other stages, bins or base model."""
    run = Path(job.run)
    require_continuation(job.train, run, lineage.plan_hashes)
    state, earlier = peek_state(run / CHECKPOINTS), Lineage.read(run)
    if state is not None and earlier is not None:
        trained = [stage.name for stage in job.train.stages[: state.train_state.stage + 1]]
        lineage.require_continued(earlier, run, trained)


def _shape(job: TrainJob, bundle: PromptBundle) -> ModelShape:
    tokenizer = bundle.tokenizer
    return ModelShape(
        vocabulary_size=tokenizer.vocabulary_size, context_length=job.context_length, control_ids=tokenizer.role_ids
    )


def _load_prompts(job: TrainJob) -> PromptBundle:
    """Load the prompts of the data, and check that the bins, the initial model and earlier training belong to them."""
    bundle = PromptBundle.load(Path(job.prompts))
    earlier = Path(job.run) / PROMPTS
    if (earlier / PROMPT_FILE).is_file() and PromptBundle.load(earlier).digest != bundle.digest:
        raise UserError(
            f"the run {job.run} was started with other prompts than {job.prompts} has now, so its model reads "
            f"other token ids. Start a new run in another folder, or restore the data."
        )
    for folder in (*job.bins.values(), *job.evaluation.values()):
        bundle.require_bins(read_plan(folder).prompt_digest, folder)
    if job.train.model.init_from is not None:
        base = Path(job.train.model.init_from)
        require_base_model(base, _shape(job, bundle))
        bundle.require_model(base)
    return bundle


@contextmanager
def _ray(job: TrainJob, run: Path) -> Iterator[None]:
    with any_ray(detached=False, logs=run / "logs" / "ray") as own:
        cores = int(ray.cluster_resources().get("CPU", 0))
        if own and job.train.workers * job.train.threads > cores:
            raise UserError(
                f"train.workers={job.train.workers} with train.threads={job.train.threads} need more cores than the "
                f"{cores} that this machine's Ray has (twice its own): lower one of them, or set RAY_ADDRESS to a "
                f"larger cluster."
            )
        yield
