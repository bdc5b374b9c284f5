"""`python -m bench.small_base.model_folders`: turns exports and checkpoints into folders of base models.

A base model has no prompts of its own: config.json, weights and tokenizer. So data with other suites, contexts and
quantiles can be built for it (`tokenizer.from`), and `brew360 benchmark` measures it on any of them. All folders of one
run have the same tokenizer file, byte by byte: data and models are compared by its digest.

    tokenizer PROMPTS OUT                           the tokenizer of a data folder
    points RUN OUT --tokenizer T --step N ...       checkpoints of a training run, as OUT/step-N
    export EXPORT OUT --tokenizer T                 an export
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from brew_cluster.cli.runner import supervise
from brew_platform.console.plain_console import PlainConsole
from brew_platform.errors import UserError
from brew_platform.files import replace_folder
from brew_train.checkpoints.export import export
from brew_train.checkpoints.export_template import ExportTemplate
from brew_train.checkpoints.manifest import CHECKPOINTS, find_fault, list_checkpoints, open_checkpoint, step_of
from brew_train.distributed.context import DistributedContext
from brew_train.loop import MODEL

__all__ = ["METRICS", "base_folder", "tokens_until", "write_points", "write_tokenizer"]

TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
CONFIGS = ("config.json", "generation_config.json")
METRICS = "metrics.jsonl"


def write_tokenizer(prompts: Path, out: Path) -> Path:
    """Copy the tokenizer of a data folder; `tokenizer.from` can name `out`."""
    temporary = _start(out)
    _copy(prompts, TOKENIZER, temporary)
    replace_folder(temporary, out)
    return out


def base_folder(exported: Path, out: Path, *, tokenizer: Path) -> Path:
    """Copy an export without its prompts.

    Args:
        exported: An export of brew360 or of one of its checkpoints.
        out: The folder to write; replaced.
        tokenizer: From `write_tokenizer`.

    Returns:
        `out`.
    """
    temporary = _start(out)
    weights = sorted(path.name for path in exported.glob("*.safetensors*"))
    _copy(exported, (*CONFIGS, *weights), temporary)
    _copy(tokenizer, TOKENIZER, temporary)
    replace_folder(temporary, out)
    return out


def write_points(run: Path, out: Path, steps: Sequence[int], *, tokenizer: Path) -> list[Path]:
    """Export checkpoints of a run as base models `out/step-N`.

    Args:
        run: A folder that `brew360 train` wrote.
        out: The folder to write into.
        steps: Numbers of steps, over all stages.
        tokenizer: From `write_tokenizer`.

    Raises:
        UserError: The run has no intact checkpoint of a step.
    """
    folders = {step_of(folder): folder for folder in reversed(list_checkpoints(run / CHECKPOINTS))}
    if missing := sorted(set(steps) - set(folders)):
        raise UserError(
            f"{run} has no checkpoint of step {missing[0]}; it has those of the steps "
            f"{', '.join(map(str, sorted(folders)))}. Pass one of these."
        )
    template, context = ExportTemplate.load(run / MODEL), DistributedContext(device=torch.device("cpu"))
    points = []
    for step in steps:
        checkpoint = open_checkpoint(folders[step])
        if fault := find_fault(checkpoint, checkpoint.files):
            raise UserError(f"the checkpoint {folders[step]} is damaged: {fault}. Pass another step.")
        exported = out / f".step-{step}.export"
        export(checkpoint, template, exported, context)
        points.append(base_folder(exported, out / f"step-{step}", tokenizer=tokenizer))
        shutil.rmtree(exported)
    return points


def tokens_until(run: Path, step: int) -> int:
    """Return the tokens that a run was trained on up to a step. A repeated step counts once."""
    rows = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    by_step = {row["step"]: row["tokens"] for row in rows if "step" in row and "tokens" in row}
    return sum(tokens for number, tokens in by_step.items() if number <= step)


def _start(out: Path) -> Path:
    temporary = out.with_name(f".{out.name}.writing")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    return temporary


def _copy(source: Path, names: Sequence[str], folder: Path) -> None:
    for name in names:
        shutil.copyfile(source / name, folder / name)


def main() -> None:
    """Write tokenizer, points, or a base model."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.small_base.model_folders",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=("tokenizer", "points", "export"))
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--step", type=int, action="append", default=[])
    options = parser.parse_args()
    with supervise(PlainConsole()):
        if options.what == "tokenizer":
            write_tokenizer(options.source, options.out)
        elif options.tokenizer is None:
            raise UserError(f"{options.what} needs --tokenizer, the folder that `tokenizer` wrote.")
        elif options.what == "points":
            write_points(options.source, options.out, options.step, tokenizer=options.tokenizer)
        else:
            base_folder(options.source, options.out, tokenizer=options.tokenizer)


if __name__ == "__main__":
    main()
