"""The settings of a search for a mix, what it refuses before Ray starts, and how its outcome is shown."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from brew_cluster.cli.views.mix_search import mix_search_svg, show_mix_search
from brew_cluster.jobs import mix_search
from brew_cluster.jobs.mix_search import PHASES
from brew_cluster.jobs.mix_search_config import MixSearchConfig, load_mix_search
from brew_cluster.jobs.mix_trials import MixSearch
from brew_data.corpora.config import CorpusConfig, CorpusSourceConfig
from brew_data.data_folder import DataFolder
from brew_data.mixing.search import Bounds, MixingLaw, Trials, decide, propose_mixes
from brew_platform.config import load_config
from brew_platform.console.plain_console import PlainConsole
from brew_platform.console.progress import Phases
from brew_platform.errors import ConfigError, UserError
from brew_train.config import ModelConfig, ModelShape

SOURCES = ["chats", "members"]
CORPUS = CorpusConfig(
    sources={"chats": CorpusSourceConfig(kind="interactions"), "members": CorpusSourceConfig(kind="profiles")}
)


def test_the_recipe_that_ships_loads() -> None:
    config = load_mix_search("small", ["tokens=700", "weights.job_apply=2"])
    assert (config.tokens, config.weights, len(config.sizes)) == (700, {"job_apply": 2.0}, 2)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["target_parameters=1000000"], "target_parameters is set, but there are only 2 sizes"),
        (["measurements=2", "target_tokens=1000000"], "target_tokens is set, but there are only 2 measurements"),
        (["sizes=[]"], "sizes is empty"),
        (["stage.schedule=cosine"], "stage.schedule is cosine"),
        (["mixes=3"], "mixes is 3"),
        (["weights.job_apply=-1"], "weights"),
    ],
)
def test_impossible_settings_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_mix_search("small", overrides)


def test_a_corpus_that_cannot_be_mixed_is_refused(built_folder: DataFolder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no corpus cpt; it has none"):
        mix_search.search_mix(MixSearchConfig(), built_folder, "cpt", tmp_path, Phases(PHASES))
    available = {"chats": 60_000, "members": 40_000}
    for changes, message in (
        ({"tokens": 200_000}, "a trial has 200,000 tokens, but the corpus cpt has 100,000"),
        ({"mixes": 4, "tokens": 1, "available": {**available, "x": 9}}, "mixes is 4, but a law of 3 sources needs 5"),
        ({"available": {"chats": 60_000, "members": 0}}, "the source members of the corpus cpt has no documents"),
    ):
        found = changes.pop("available", available)
        with pytest.raises(UserError, match=message):
            mix_search._bounds(CORPUS, found, MixSearchConfig(**changes), "cpt")


def test_a_folder_belongs_to_one_search(built_folder: DataFolder, tmp_path: Path) -> None:
    for _ in range(2):
        mix_search._open_folder(tmp_path / "mix", MixSearchConfig(), CORPUS, built_folder)
    with pytest.raises(UserError, match="has a search with another config"):
        mix_search._open_folder(tmp_path / "mix", MixSearchConfig(mixes=5), CORPUS, built_folder)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.txt").touch()
    with pytest.raises(UserError, match="no search wrote it"):
        mix_search._open_folder(tmp_path / "other", MixSearchConfig(), CORPUS, built_folder)


@pytest.fixture
def make_result(built_folder: DataFolder, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def make(*, noise: float = 0.0, **targets: int) -> dict[str, Any]:
        bounds = Bounds(np.full(2, 0.01), np.full(2, 0.9))
        share_MS = propose_mixes(np.array([0.6, 0.4]), bounds, count=8, seed=0)
        laws = [MixingLaw(constant=1.0, rate_S=np.array(rates)) for rates in ([-1.0, 0.5], [0.0, -1.0])]
        random = np.random.default_rng(0)
        loss_MKTV = np.stack([law.losses(share_MS) for law in laws], axis=-1)[:, None, None] + np.zeros((8, 3, 1, 2))
        loss_MKTV = loss_MKTV + np.array([0.9, 0.4, 0.2])[:, None, None] + noise * random.normal(size=loss_MKTV.shape)
        loss_MKTV = np.maximum(0.1, loss_MKTV)
        size_K = np.array([1_000, 4_000, 16_000])
        trials = Trials(share_MS=share_MS, size_K=size_K, tokens_T=np.array([500]), loss_MKTV=loss_MKTV)
        weights = {"job_apply": 3.0, "profiles": 1.0}
        decision = decide(trials, np.array(list(weights.values())), bounds, **targets)
        search = MixSearch(
            config=MixSearchConfig(mixes=8, tokens=500, sizes=[ModelConfig()] * 3, **targets),
            corpus=CORPUS,
            compiled=None,  # type: ignore[arg-type]
            validation={},
            sources=SOURCES,
            mixes=share_MS.tolist(),
            shape=ModelShape(vocabulary_size=300, context_length=64),
            out=tmp_path,
        )
        checked = {"job_apply": 1.5, "profiles": 1.6} if decision.is_by_law else None
        available = {"chats": 600, "members": 400}
        return mix_search._result(search, built_folder, "cpt", available, bounds, weights, trials, decision, checked)

    return make


def shown(result: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> str:
    show_mix_search(PlainConsole(width=200), result)
    return capsys.readouterr().out


def test_the_outcome_is_a_recipe(make_result: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    result = make_result(target_parameters=1_000_000)
    assert json.loads(json.dumps(result)) == result
    assert result["is_extrapolated"]
    corpus = load_config(CorpusConfig, result["recipe"]["corpora"]["cpt"])
    assert corpus.tokens == 1_000  # what the weights are for
    weights = {name: source.weight for name, source in corpus.sources.items()}
    assert weights == pytest.approx(result["share"], rel=1e-4)
    output = shown(result, capsys)
    assert "| natural" in output.replace("│", "|")
    assert "Rank correlation of the mixes between successive numbers of parameters: 1.00, 1.00." in output
    assert "The losses of the natural and of the chosen mix are extrapolated." in output
    assert "Measured at the largest size: a gain of" in output
    assert "corpora:\n  cpt:\n    tokens: 1000\n    sources:\n      chats:\n        kind: interactions\n" in output
    image = ElementTree.fromstring(mix_search_svg(result))
    assert sum(element.tag.endswith("circle") for element in image) == 2 * 8 * 3
    assert sum(element.tag.endswith("polyline") for element in image) == 2


def test_noise_is_shown_as_such(make_result: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    result = make_result(noise=0.4, target_parameters=1_000_000)
    output = shown(result, capsys)
    assert not result["is_extrapolated"]
    assert "Not extrapolated: between " in output
    assert result["is_by_law"] == (result["check"] is not None)
    ElementTree.fromstring(mix_search_svg(result))
