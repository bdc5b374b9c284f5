"""`brew360 data search-mix`: trains small models on mixes of a corpus, and chooses the weights of its sources.

The sources are compiled once. Trials (`brew_cluster.jobs.mix_trials`) train small models on mixes, and measure their
losses on the chats of the held-out members, by task. `brew_data.mixing.search` decides.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from brew_cluster.jobs.dataset_card import read_card
from brew_cluster.jobs.dataset_check import EVALUATION_MEMBERS, TRAINING_MEMBERS
from brew_cluster.jobs.disk_space import require_space
from brew_cluster.jobs.mix_search_config import MixSearchConfig
from brew_cluster.jobs.mix_trials import MixSearch, run_trials, tokens_between
from brew_cluster.ray.local_ray import any_ray
from brew_data.corpora.config import CorpusConfig, CorpusSourceConfig
from brew_data.corpora.document_sources import TableRows
from brew_data.data_folder import DataFolder
from brew_data.mixing.mix import Candidates, SourceShare, plan_mix
from brew_data.mixing.search import Bounds, Decision, Trials, decide, fewest_mixes, propose_mixes, share_bounds
from brew_data.pipelines.corpus_bins import compile_corpus
from brew_data.prompts.bundle import PromptBundle
from brew_data.prompts.compiler import PromptCompiler
from brew_data.prompts.variation import VariationConfig
from brew_platform.config import config_digest, load_config
from brew_platform.console.progress import Phases
from brew_platform.errors import ConfigError, UserError
from brew_platform.files import replace_atomically
from brew_platform.provenance import now, source_commit
from brew_train.config import ModelConfig, ModelShape
from brew_train.model.model import build_model

__all__ = ["PHASES", "RESULT", "search_mix"]

PHASES = ["sources", "validation", "trials", "check"]
RESULT = "mix_search.json"
FORMAT_VERSION = 1
SETTINGS = "settings.json"
HELD_OUT_KINDS = ("interactions", "profiles", "networks")  # of sources with documents of held-out members


def search_mix(config: MixSearchConfig, data: DataFolder, name: str, out: Path, phases: Phases) -> dict[str, Any]:
    """Try mixes of a corpus, and choose the weights of its sources.

    Args:
        config: The settings.
        data: A data set whose recipe has the corpus.
        name: The corpus.
        out: The folder of the search. A search with equal settings that did not finish there is continued.
        phases: Shows progress.

    Returns:
        The content of `mix_search.json`.

    Raises:
        UserError: There is no such corpus, it has too few sources or tokens, or the folder has another search.
        BrewError: A trial failed.
    """
    out = out.absolute()
    corpus, variation = _corpus(data, name)
    require_space(out)
    _open_folder(out, config, corpus, data)
    bundle = data.bundle()
    compiler = bundle.compiler()
    rows = TableRows(
        folder=data.tables_folder.absolute(),
        until=data.info.split.train_until,
        members=TRAINING_MEMBERS,
        variation=variation,
    )
    with any_ray(detached=False, logs=out / "logs" / "ray"):
        with phases.phase("sources", unit="tokens") as progress:
            compiled = compile_corpus(corpus, rows, compiler, out / "sources")
            available = {source: found.tokens for source, found in compiled.candidates().items()}
            progress.update(sum(available.values()), **available)
        sources, bounds = list(available), _bounds(corpus, available, config, name)
        natural_S = np.array(list(available.values())) / sum(available.values())
        with phases.phase("validation", unit="sets") as progress:
            held_out = replace(rows, members=EVALUATION_MEMBERS, variation=None)
            validation = _validation_sets(corpus, held_out, compiler, out / "validation", config.validation_tokens)
            progress.update(len(validation))
        weights = _weights(config, validation, bundle)
        shape = _shape(bundle)
        models = [_resolved(model, bundle) for model in config.sizes]
        sizes = sorted((_parameters(model, shape), number) for number, model in enumerate(models))
        config = replace(config, sizes=[models[number] for _, number in sizes])
        mix_MS = propose_mixes(natural_S, bounds, count=config.mixes, seed=config.seed)
        search = MixSearch(config, corpus, compiled, validation, sources, mix_MS.tolist(), shape, out)
        points = [(mix, size) for size in range(len(sizes)) for mix in range(config.mixes)]
        with phases.phase("trials", total=len(points) * config.measurements, unit="measurements") as progress:
            losses = run_trials(search, points, "tune", progress)
        trials = Trials(
            share_MS=mix_MS,
            size_K=np.array([parameters for parameters, _ in sizes]),
            tokens_T=np.arange(1, config.measurements + 1) * tokens_between(config, shape),
            loss_MKTV=np.array(
                [
                    [[[found[name] for name in weights] for found in losses[mix, size]] for size in range(len(sizes))]
                    for mix in range(config.mixes)
                ]
            ),
        )
        decision = decide(
            trials,
            np.array(list(weights.values())),
            bounds,
            target_parameters=config.target_parameters,
            target_tokens=config.target_tokens,
        )
        with phases.phase("check", total=config.measurements, unit="measurements") as progress:
            checked = None
            if decision.is_by_law:
                search = search._replace(mixes=[*search.mixes, decision.share_S.tolist()])
                point = (config.mixes, len(sizes) - 1)
                checked = run_trials(search, [point], "tune-check", progress)[point][-1]
    result = _result(search, data, name, available, bounds, weights, trials, decision, checked)
    replace_atomically(out / RESULT, json.dumps(result, indent=1) + "\n")
    return result


def _corpus(data: DataFolder, name: str) -> tuple[CorpusConfig, VariationConfig]:
    """Return a corpus of the recipe that the data were built with, and the variation of their documents."""
    recipe = read_card(data.folder)["config"]
    if name not in recipe["corpora"]:
        raise UserError(
            f"{data.folder} has no corpus {name}; it has {', '.join(recipe['corpora']) or 'none'}. Name one of them, "
            f"or build the data with `corpora.{name}` in the recipe."
        )
    corpus = load_config(CorpusConfig, recipe["corpora"][name])
    if len(corpus.sources) < 2:
        raise UserError(f"the corpus {name} has one source, so that there is nothing to mix. Add another one.")
    return corpus, load_config(VariationConfig, recipe["variation"])


def _open_folder(out: Path, config: MixSearchConfig, corpus: CorpusConfig, data: DataFolder) -> None:
    """Continue a search with equal settings, data and code, or start one."""
    settings = {
        "config": config_digest(config),
        "corpus": config_digest(corpus),
        "data": data.info.digest,
        "commit": source_commit(),
    }
    file = out / SETTINGS
    if file.is_file() and (earlier := json.loads(file.read_text())) != settings:
        changed = ", ".join(key for key, value in settings.items() if earlier.get(key) != value)
        raise UserError(f"{out} has a search with another {changed}. Choose another --out, or remove that folder.")
    if not file.is_file() and out.is_dir() and {path.name for path in out.iterdir()} - {"logs"}:
        raise UserError(f"{out} is not empty, and no search wrote it. Choose another --out.")
    out.mkdir(parents=True, exist_ok=True)
    replace_atomically(file, json.dumps(settings))


def _bounds(corpus: CorpusConfig, available: Mapping[str, int], config: MixSearchConfig, name: str) -> Bounds:
    """Return the bounds of the shares, at the tokens of the corpus."""
    if config.mixes < (fewest := fewest_mixes(len(available))):
        raise ConfigError(
            f"mixes is {config.mixes}, but a law of {len(available)} sources needs {fewest} to be checked. Raise mixes."
        )
    if empty := [source for source, tokens in available.items() if not tokens]:
        raise UserError(f"the source {empty[0]} of the corpus {name} has no documents. Remove it, or add data to it.")
    tokens = corpus.tokens or sum(available.values())
    if config.tokens > tokens:
        raise UserError(
            f"a trial has {config.tokens:,} tokens, but the corpus {name} has {tokens:,}. Set tokens to at most "
            f"{tokens:,}."
        )
    return share_bounds(np.array(list(available.values())), tokens=tokens, most_repeats=corpus.most_repeats)


def _validation_sets(
    corpus: CorpusConfig, rows: TableRows, compiler: PromptCompiler, out: Path, limit: int
) -> dict[str, Path]:
    """Write bins of held-out members: the chats of each task, and, where the corpus has them, profiles and networks."""
    kinds = {"interactions", *(source.kind for source in corpus.sources.values())}.intersection(HELD_OUT_KINDS)
    sources = {kind: CorpusSourceConfig(kind=kind) for kind in kinds}
    compiled = compile_corpus(CorpusConfig(sources=sources), rows, compiler, out / "sources")
    folders: dict[str, Path] = {}
    for kind, found in compiled.candidates().items():
        for number, stratum in enumerate(found.strata):
            is_part_D = found.stratum_D == number
            part = Candidates(
                length_D=found.length_D[is_part_D],
                rank_D=found.rank_D[is_part_D],
                stratum_D=np.zeros(int(is_part_D.sum()), np.int64),
                strata=[stratum],
            )
            tokens = min(part.tokens, limit)
            quotas = plan_mix({kind: part}, {kind: SourceShare()}, tokens=tokens, most_repeats=1.0)
            folder = out / "sets" / (stratum or kind)
            if compiled.pack(quotas, folder) is not None:
                folders[folder.name] = folder
    return folders


def _weights(config: MixSearchConfig, validation: Mapping[str, Path], bundle: PromptBundle) -> dict[str, float]:
    """Return the weight of each validation set, in their order."""
    if unknown := sorted(set(config.weights) - set(validation)):
        raise ConfigError(
            f"weights has {', '.join(unknown)}, but the held-out members have documents of "
            f"{', '.join(validation) or 'nothing'} only. Remove it from weights."
        )
    tasks = {task.name for task in bundle.suite.tasks}
    weights = {name: config.weights.get(name, 0.0 if config.weights else float(name in tasks)) for name in validation}
    if not any(weights.values()):
        raise ConfigError(
            f"no validation set has a weight above 0; there are {', '.join(validation) or 'none'}. Set weights."
        )
    return weights


def _shape(bundle: PromptBundle) -> ModelShape:
    tokenizer = bundle.tokenizer
    return ModelShape(
        vocabulary_size=tokenizer.vocabulary_size,
        context_length=bundle.format.context_length,
        control_ids=tokenizer.role_ids,
    )


def _resolved(model: ModelConfig, bundle: PromptBundle) -> ModelConfig:
    """Return a model with an absolute path: trials run in another folder."""
    if model.init_from is None:
        return model
    bundle.require_model(Path(model.init_from))
    return replace(model, init_from=str(Path(model.init_from).absolute()))


def _parameters(model: ModelConfig, shape: ModelShape) -> int:
    return sum(parameter.numel() for parameter in build_model(model, shape).parameters())


def _result(
    search: MixSearch,
    data: DataFolder,
    name: str,
    available: Mapping[str, int],
    bounds: Bounds,
    weights: Mapping[str, float],
    trials: Trials,
    decision: Decision,
    checked: Mapping[str, float] | None,
) -> dict[str, Any]:
    """Return the content of `mix_search.json`."""
    config, sets = search.config, list(weights)

    def by_source(value_S: np.ndarray) -> dict[str, float]:
        return dict(zip(search.sources, np.round(value_S, 6).tolist(), strict=True))

    def by_set(value_V: np.ndarray) -> dict[str, float]:
        return dict(zip(sets, np.round(value_V, 6).tolist(), strict=True))

    return {
        "format_version": FORMAT_VERSION,
        "created": now(),
        "commit": source_commit(),
        "data": data.info.digest,
        "corpus": name,
        "config": asdict(config),
        "available_tokens": dict(available),
        "bounds": {"least": by_source(bounds.least_S), "most": by_source(bounds.most_S)},
        "weights": dict(weights),
        "parameters": trials.size_K.tolist(),
        "tokens": trials.tokens_T.tolist(),
        "trials": [
            {"share": by_source(share_S), "losses": [[by_set(loss_V) for loss_V in loss_TV] for loss_TV in loss_KTV]}
            for share_S, loss_KTV in zip(trials.share_MS, trials.loss_MKTV, strict=True)
        ],  # losses by size and measurement
        "rank_correlations": {"parameters": decision.size_ranks, "tokens": decision.token_ranks},
        "laws": {
            validation: {"constant": law.constant, "rates": by_source(law.rate_S), "left_out_error": float(error)}
            for validation, law, error in zip(sets, decision.laws, decision.error_V, strict=True)
        },
        "left_out_error": decision.error,
        "skill": decision.skill,
        "refusal": decision.refusal,
        "is_extrapolated": not decision.refusal and {config.target_parameters, config.target_tokens} != {None},
        "is_by_law": decision.is_by_law,
        "share": by_source(decision.share_S),
        "losses": {"natural": by_set(decision.natural_V), "chosen": by_set(decision.loss_V)},
        "check": None if checked is None else dict(checked),
        "recipe": {"corpora": {name: _recipe(search.corpus, by_source(decision.share_S), sum(available.values()))}},
    }


def _recipe(corpus: CorpusConfig, weights: Mapping[str, float], available: int) -> dict[str, Any]:
    """Return a corpus with weights and the tokens that they were chosen for, as in a recipe without defaults."""
    sources = {
        name: {key: value for key, value in asdict(source).items() if value != getattr(CorpusSourceConfig, key, None)}
        | {"weight": float(f"{weights[name]:.5g}")}
        for name, source in corpus.sources.items()
    }
    settings = {key: value for key, value in asdict(corpus).items() if value != getattr(CorpusConfig, key, None)}
    return {"tokens": corpus.tokens or available} | settings | {"sources": sources}
