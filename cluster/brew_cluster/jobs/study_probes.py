"""Runs the probe of a study on its models. What has been measured is kept, so an interrupted study continues."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from brew_cluster.jobs.benchmark import BenchmarkJob, open_model
from brew_cluster.jobs.study import StudyModel
from brew_cluster.jobs.study_config import StudyConfig
from brew_data.data_folder import DataFolder
from brew_eval.studies.instruction_following import measure_instructions
from brew_eval.studies.needle import SUMMARY, measure_needles, rope_variants
from brew_eval.studies.probe import ProbedModel
from brew_eval.studies.recall import measure_recall
from brew_eval.studies.study_table import StudyPoint, read_points, write_points
from brew_eval.studies.throughput import measure_throughput
from brew_platform.config import config_digest
from brew_platform.console.plain_console import PlainConsole
from brew_platform.errors import UserError
from brew_platform.model_folder.weight_files import read_model_config
from brew_serve.engines.config import EngineConfig
from brew_serve.engines.registry import create_engine
from brew_serve.version import load_version

__all__ = ["run_probes"]


def run_probes(
    config: StudyConfig, models: Sequence[StudyModel], folder: Path, console: PlainConsole
) -> list[StudyPoint]:
    """Measure every model.

    Args:
        config: The study, with a probe.
        models: The models.
        folder: Of the study; what a model gave is kept in `probes`, and is not measured again.
        console: Shows which model is measured.

    Returns:
        The points of all models. Figures without an axis of their own get the model as their point.

    Raises:
        UserError: A model has no prompts, or other prompts than the data, or the probe does not fit it.
        BrewError: The engine failed.
    """
    job = BenchmarkJob(registry_url=config.registry_url, model=config.model, cache_folder=config.cache_folder)
    found: list[StudyPoint] = []
    for model in models:
        opened, data = open_model(model.reference, job), DataFolder.open(model.data)
        for variant, engine in _variants(config, opened.folder).items():
            settings = [asdict(probe) for name in config.probes if (probe := getattr(config, name)) is not None]
            key = config_digest([opened.digest, data.info.digest, config.probes, *settings, asdict(engine)])[:16]
            path = folder / "probes" / f"{key}.csv"
            if path.is_file():
                points = read_points(path)
            else:
                console.print(f"{model.name}: measuring{f', {variant}' if variant else ''}", style="bold")
                points = _measure(config, opened.folder, data, engine, variant)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_points(points, path)
            found += [_placed(point, model, several=len(models) > 1) for point in points]
    return found


def _variants(config: StudyConfig, folder: Path) -> dict[str, EngineConfig]:
    """Return the engines to measure a model with, by name."""
    if config.needle is None:
        return {"": config.engine}
    longest = max(config.needle.lengths) + 1
    found = {}
    for name, rope in rope_variants(config.needle, read_model_config(folder)).items():
        engine = replace(config.engine, rope=rope)
        # With scaling, the context of the engine is what scaling gives, but a cache for more than the prompts is waste.
        context = load_version(folder, engine).engine.max_model_len or longest
        found[name] = replace(engine, max_model_len=min(context, longest))
    return found


def _measure(
    config: StudyConfig, folder: Path, data: DataFolder, engine: EngineConfig, variant: str
) -> list[StudyPoint]:
    loaded = load_version(folder, engine)
    bundle = data.bundle()
    if loaded.compiler.tokenizer.digest != bundle.tokenizer.digest:
        raise UserError(
            f"{folder} has another tokenizer than {data.folder}, so the documents of these data mean nothing to it. "
            f"Measure it on the data of its training."
        )
    context = loaded.engine.max_model_len
    assert context is not None
    tokenizer = loaded.compiler.tokenizer
    roles = (tokenizer.end, tokenizer.pad, tokenizer.system, tokenizer.member, tokenizer.user, tokenizer.assistant)
    running = create_engine(folder, loaded.engine)
    try:
        model = ProbedModel(
            engine=running, compiler=loaded.compiler, data=data, stop_ids=(*roles, *loaded.ids_without_token)
        )
        if config.needle is not None:
            return asyncio.run(measure_needles(model, config.needle, variant, context=context))
        if config.instructions is not None:
            return asyncio.run(measure_instructions(model, config.instructions))
        if config.recall is not None:
            return asyncio.run(measure_recall(model, config.recall))
        assert config.throughput is not None
        return asyncio.run(measure_throughput(model, config.throughput, context=context))
    finally:
        running.close()


def _placed(point: StudyPoint, model: StudyModel, *, several: bool) -> StudyPoint:
    if point.x is None and point.series != SUMMARY:
        return replace(point, point=model.name, x=model.x)
    if not several:  # the probe has an axis of its own
        return point
    if point.x is None:
        return replace(point, point=f"{model.name}, {point.point}")
    return replace(point, series=f"{model.name}, {point.series}")
