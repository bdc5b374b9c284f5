"""The demo: the end-to-end pipeline from tables to ranked candidates over HTTP, on real components, top to bottom.

Holds the order of the stages and what passes between them. Every stage is another area's work.
"""

import statistics
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
from rich.console import Console

from brew_cluster.jobs.dataset import make_bins, prepare
from brew_cluster.jobs.demo_config import DemoConfig
from brew_cluster.jobs.demo_report import (
    show_curl,
    show_figures,
    show_quality,
    show_rankings,
    write_report,
)
from brew_cluster.jobs.demo_slates import DemoSlate, choose_slates
from brew_cluster.jobs.disk_space import require_space
from brew_cluster.ray.local_ray import local_ray
from brew_data.pipelines.requests import build_requests
from brew_data.prompts.bundle import PromptBundle
from brew_data.records import Records
from brew_data.schema import micros
from brew_platform.config import config_digest
from brew_platform.console.progress import Phases
from brew_platform.processes import ProcessTreeMeter
from brew_platform.provenance import source_commit
from brew_platform.registry.registry import Registry
from brew_platform.storage.base import open_store
from brew_serve.batch.dataset_scoring import score_requests
from brew_serve.benchmark import benchmark, count_benchmark_scores
from brew_serve.client import RankClient
from brew_serve.context.base import MemberContext
from brew_serve.deployment.online_service import AppConfig, build_app, serve_http
from brew_train.config import ModelShape
from brew_train.ray_launcher import run_on_ray

__all__ = ["DemoOptions", "run_demo"]


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Paths and port of a run."""

    run: Path  # folder of this run's files
    registry: str  # store that the version is published to
    report: Path
    port: int
    path: Path | None = None  # input files, for sources that read some
    keep: bool = False  # leave Ray and the service running


def run_demo(config: DemoConfig, options: DemoOptions, console: Console) -> dict[str, object]:
    """Run the pipeline, write its report to `options.report`, and return it.

    Raises:
        BrewError: A step failed. The registry has no partial version, and Ray has been stopped.
    """
    require_space(options.run)
    commit = source_commit()  # read first, because the checkout may change during training
    run = options.run
    phases = Phases(PHASES, console=console)

    with ProcessTreeMeter(interval_seconds=2.0) as memory:
        prepared = prepare(config, run, phases, path=options.path)
        tables, split, suite, compiler = prepared.tables, prepared.split, prepared.suite, prepared.compiler
        tokenizer, bundle = compiler.tokenizer, PromptBundle.of(compiler)

        with local_ray(detached=options.keep, logs=run / "logs" / "ray"):
            plan = make_bins(prepared, run / "bins", phases)

            steps = sum(stage.steps for stage in config.train.stages)
            with phases.phase("train", total=steps, unit="steps") as progress:
                trained = run_on_ray(
                    config.train,
                    bins={stage.name: run / "bins" for stage in config.train.stages},
                    out=run / "train",
                    shape=ModelShape(
                        vocabulary_size=tokenizer.vocabulary_size, context_length=config.prompt.context_length
                    ),
                    on_metrics=lambda row: progress.update(row["step"], loss=row["loss"]),
                )
                model = trained.export
                bundle.save(model)

            rows = count_benchmark_scores(tables, suite, split)
            with phases.phase("benchmark", total=rows, unit="rows") as progress:
                scores = _score(build_requests(run / "tables", compiler, split), model, config, progress)
                pq.write_table(scores, run / "scores.parquet")
                quality = benchmark(scores, tables, suite, split)
            show_quality(console, quality)

            with phases.phase("publish"):
                registry = Registry(open_store(options.registry))
                version = registry.publish(
                    model,
                    signature={
                        "suite": suite.name,
                        "tasks": list(quality),
                        "prompt": asdict(config.prompt),
                        "prompt_digest": bundle.digest,
                    },
                    lineage={
                        "parent": None,  # trained from scratch
                        "plan_hash": plan.plan_hash,
                        "config_digest": config_digest(config),
                        "commit": commit,
                        "job": ray.get_runtime_context().get_job_id(),
                    },
                    metrics={name: task.figures() for name, task in quality.items()},
                    gates=config.release.gates,
                    author="brew360 demo",
                )
                registry.promote(
                    version.number,
                    author="brew360 demo",
                    force=bool(config.release.force_reason),
                    reason=config.release.force_reason,
                )

            with phases.phase("serve"):
                # Only interactions up to the cut: later ones include the candidates' outcomes.
                known = pc.less_equal(micros(tables.interactions), split.train_until)
                at_the_cut = replace(tables, interactions=tables.interactions.filter(known))
                MemberContext.build(at_the_cut, run / "context.sqlite")
                app = build_app(
                    AppConfig(
                        registry_url=options.registry,
                        context_path=str(run / "context.sqlite"),
                        cache_folder=str(run / "versions"),
                        engine=config.engine,
                    )
                )
                url = serve_http(app, port=options.port)

            with phases.phase("rank", total=config.release.requests, unit="requests") as progress:
                slates = choose_slates(tables, suite, split, count=config.release.requests, size=config.release.slate)
                rankings, milliseconds = _rank(url, slates, progress)
        # Without `keep`, the service and Ray stop here.

    report: dict[str, object] = {
        "source": config.source,
        "tasks": {name: task.figures() for name, task in quality.items()},
        "train": {
            "tokens_per_second": trained.tokens_per_second,
            "steps": trained.steps,
            "tokens": trained.tokens,
        },
        "bins": asdict(plan),
        "registry": {"version": version.number, "url": options.registry},
        "serve": {"url": url, "p50_ms": statistics.median(milliseconds), "requests": len(milliseconds)},
        "seconds": {**phases.seconds, "total": sum(phases.seconds.values())},
        "memory": {"peak_bytes": memory.peak_bytes},
    }
    write_report(options.report, report)
    show_rankings(console, list(zip(slates, rankings, strict=True)), Records(tables), suite)
    show_figures(console, report)
    console.print(f"report: {options.report}", soft_wrap=True)
    if options.keep:
        show_curl(console, url, slates[0])
    return report


PHASES = ["tables", "tokenizer", "bins", "train", "benchmark", "publish", "serve", "rank"]


def _score(requests, model: Path, config: DemoConfig, progress) -> pa.Table:  # type: ignore[no-untyped-def]
    batches = []
    done = 0
    for batch in score_requests(requests, model, config.engine).iter_batches(batch_format="pyarrow", batch_size=None):
        batches.append(batch)
        done += batch.num_rows
        progress.update(done)
    return pa.concat_tables(batches).sort_by([("interaction_id", "ascending"), ("task", "ascending")])


def _rank(url: str, slates: list[DemoSlate], progress) -> tuple[list, list[float]]:  # type: ignore[no-untyped-def]
    rankings, milliseconds = [], []
    with RankClient(url) as client:
        for done, slate in enumerate(slates, start=1):
            start = time.perf_counter()
            ranking = client.rank(task=slate.task, member_id=slate.member_id, candidates=slate.candidates)
            milliseconds.append((time.perf_counter() - start) * 1000)  # includes HTTP
            rankings.append(ranking)
            progress.update(done)
    return rankings, milliseconds
