"""`python -m bench.small_base.model_folders`: turns an export into the folder of a base model.

A base model has no prompts of its own: config.json, weights and tokenizer. So data with other suites, contexts and
quantiles can be built for it (`tokenizer.from`), and `brew360 benchmark` measures it on any of them. All folders of one
run have the same tokenizer file, byte by byte: data and models are compared by its digest.

    tokenizer PROMPTS OUT               the tokenizer of a data folder
    model EXPORT OUT --tokenizer T      a base model
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from brew_cluster.cli.runner import supervise
from brew_platform.console.plain_console import PlainConsole
from brew_platform.errors import UserError
from brew_platform.files import atomic_folder

__all__ = ["METRICS", "base_folder", "tokens_of", "write_tokenizer"]

TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
CONFIGS = ("config.json", "generation_config.json")
METRICS = "metrics.jsonl"


def write_tokenizer(prompts: Path, out: Path) -> Path:
    """Copy the tokenizer of a data folder; `tokenizer.from` can name `out`."""
    with atomic_folder(out) as temporary:
        _copy(prompts, TOKENIZER, temporary)
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
    weights = sorted(path.name for path in exported.glob("*.safetensors*"))
    with atomic_folder(out) as temporary:
        _copy(exported, (*CONFIGS, *weights), temporary)
        _copy(tokenizer, TOKENIZER, temporary)
    return out


def tokens_of(run: Path, *, until: int | None = None) -> int:
    """Return the tokens that a run was trained on, up to a step. A repeated step counts once."""
    rows = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    by_step = {row["step"]: row["tokens"] for row in rows if "step" in row and "tokens" in row}
    return sum(tokens for number, tokens in by_step.items() if until is None or number <= until)


def _copy(source: Path, names: Sequence[str], folder: Path) -> None:
    for name in names:
        shutil.copyfile(source / name, folder / name)


def main() -> None:
    """Write a tokenizer or a base model."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.small_base.model_folders",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=("tokenizer", "model"))
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    options = parser.parse_args()
    with supervise(PlainConsole()):
        if options.what == "tokenizer":
            write_tokenizer(options.source, options.out)
        elif options.tokenizer is None:
            raise UserError("model needs --tokenizer, the folder that `tokenizer` wrote.")
        else:
            base_folder(options.source, options.out, tokenizer=options.tokenizer)


if __name__ == "__main__":
    main()
