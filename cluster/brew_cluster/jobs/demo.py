"""The demo: the end-to-end pipeline from tables to ranked candidates over HTTP, on real components, top to bottom.

It contains the order of the stages. Each stage is implemented in the area that it belongs to.
"""

import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import ray

from brew_cluster.cli.views.benchmark import show_report
from brew_cluster.jobs.benchmark_report import evaluate_rows, make_document, write_benchmark
from brew_cluster.jobs.benchmark_scores import score_rows
from brew_cluster.jobs.context import TRAIN_CUT, build_context
from brew_cluster.jobs.dataset import finish_dataset, make_bins
from brew_cluster.jobs.dataset_tables import prepare
from brew_cluster.jobs.demo_config import DemoConfig
from brew_cluster.jobs.demo_report import (
    show_curl,
    show_figures,
    show_rankings,
    write_report,
)
from brew_cluster.jobs.demo_slates import DemoSlate, choose_slates
from brew_cluster.jobs.disk_space import require_space
from brew_cluster.jobs.lineage import Lineage, parent_of
from brew_cluster.jobs.publish import publish_export
from brew_cluster.ray.local_ray import local_ray
from brew_data.data_folder import DataFolder
from brew_data.prompts.bundle import PromptBundle
from brew_data.records import Records
from brew_eval.baselines.by_name import DEFAULT, score_by_name
from brew_eval.engine_scores import add_engine_scores
from brew_eval.measurement import EvaluationConfig
from brew_eval.scored_rows import ScoredRowsInfo
from brew_eval.selection import rows_after_cut
from brew_platform.config import config_digest
from brew_platform.console.plain_console import PlainConsole
from brew_platform.console.progress import Phases
from brew_platform.processes import ProcessTreeMeter
from brew_platform.provenance import now, source_commit
from brew_platform.registry.model_digest import folder_digest
from brew_platform.registry.registry import Registry
from brew_platform.storage.base import open_store
from brew_serve.client import RankClient
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
    keep: bool = False  # leave Ray and the service running


def run_demo(config: DemoConfig, options: DemoOptions, console: PlainConsole) -> dict[str, object]:
    """Run the pipeline, write its report to `options.report`, and return it.

    Raises:
        BrewError: A step failed. The registry has no partial version, and Ray has been stopped.
    """
    require_space(options.run)
    commit = source_commit()  # read first, because the checkout may change during training
    run = options.run
    phases = Phases(PHASES, console=console)

    with ProcessTreeMeter(interval_seconds=2.0) as memory:
        prepared = prepare(config, run, phases)
        tables, split, suite, compiler = prepared.tables, prepared.split, prepared.suite, prepared.compiler
        tokenizer, bundle = compiler.tokenizer, PromptBundle.of(compiler)
        if config.train.model.init_from is not None:
            bundle.require_model(Path(config.train.model.init_from))

        with local_ray(detached=options.keep, logs=run / "logs" / "ray"):
            plan = make_bins(prepared, run / "bins", phases, variation=config.variation, slates=config.slates)
            bundle.save(run / "prompts")
            finish_dataset(config, prepared, {"bins": plan}, phases)
            data = DataFolder.open(run)

            steps = sum(stage.steps for stage in config.train.stages)
            with phases.phase("train", total=steps, unit="steps") as progress:
                trained = run_on_ray(
                    config.train,
                    bins={stage.name: run / "bins" for stage in config.train.stages},
                    out=run / "train",
                    shape=ModelShape(
                        vocabulary_size=tokenizer.vocabulary_size,
                        context_length=config.prompt.context_length,
                        control_ids=tokenizer.role_ids,
                    ),
                    end_token_ids=(tokenizer.end, tokenizer.user),
                    on_metrics=lambda row: progress.update(row["step"], loss=row["loss"]),
                )
                model = trained.export
                bundle.save(model)

            origin = ScoredRowsInfo(
                model=str(model), suite=suite.name, data_digest=data.info.digest, commit=commit, date=now()
            )
            rows = rows_after_cut(tables, suite, split, origin)
            with phases.phase("benchmark", total=len(rows), unit="rows") as progress:
                found = score_rows(data, bundle, rows, model, config.engine, on_progress=progress.update)
                scored = add_engine_scores(rows, found)
                info = data.info
                baselines = score_by_name(
                    DEFAULT, scored, tables, suite, split, source=info.source, source_config=info.source_config
                )
                evaluated = evaluate_rows(scored, list(baselines), tables, suite, split, EvaluationConfig())
            show_report(console, evaluated, title="Benchmark: AUC on rows strictly later than training")

            with phases.phase("publish"):
                Lineage(
                    parent=parent_of(config.train.model.init_from),
                    plan_hashes={stage.name: plan.plan_hash for stage in config.train.stages},
                    config_digest=config_digest(config),
                    commit=commit,
                    job=ray.get_runtime_context().get_job_id(),
                    gates=config.release.gates,
                ).write(model)
                benchmarked = make_document(
                    evaluated,
                    model={"name": str(model), "kind": "export", "version": None, "digest": folder_digest(model)},
                    data=data,
                    prompt_digest=bundle.digest,
                    everything=rows,
                    rows=scored,
                    per_task=None,
                    engine=config.engine,
                    seconds={"benchmark": phases.seconds["benchmark"]},
                    peak_bytes=memory.peak_bytes,
                )
                write_benchmark(benchmarked, evaluated, scored, run / "benchmark.json")
                registry = Registry(open_store(options.registry))
                version = publish_export(registry, model, report=benchmarked, author="brew360 demo")
                registry.promote(
                    version.number,
                    author="brew360 demo",
                    force=bool(config.release.force_reason),
                    reason=config.release.force_reason,
                )

            with phases.phase("serve"):
                build_context(data, run / "context.sqlite", until=TRAIN_CUT, by_id=False)  # slates come from the tables
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
        "tasks": benchmarked["tasks"],
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
    console.print(f"report: {options.report}")
    if options.keep:
        show_curl(console, url, slates[0])
    return report


PHASES = ["tables", "tokenizer", "bins", "train", "benchmark", "publish", "serve", "rank"]


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
