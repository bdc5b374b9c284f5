"""`make bench-quality`: its options and recipes, and its baselines on a small release of MovieLens."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from bench.quality.__main__ import Options, parse, run
from bench.quality.baselines import TRAIN_SHARE
from bench.quality.economic_graph import RECIPE
from bench.quality.movielens_model import RECIPES
from bench.small_base.__main__ import RECIPES as SMALL_BASE

from brew_cluster.jobs.dataset_config import load_dataset_config
from brew_cluster.jobs.train import load_job
from brew_data.split import SplitConfig
from brew_platform.console.plain_console import PlainConsole

MEMBERS, FILMS = 40, 30


def write_release(folder: Path) -> Path:
    """Write files of MovieLens latest in which members like every second film."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    titles = "\n".join(f"{film},Film {film} (1990),Drama" for film in range(FILMS))
    (folder / "movies.csv").write_text(f"movieId,title,genres\n{titles}\n")
    rows = [
        f"{member},{film},{4.0 if (film % 2) ^ (rng.random() < 0.2) else 2.0},{1_000_000_000 + second}"
        for second, (member, film) in enumerate(
            (member, film) for film in rng.permutation(FILMS) for member in rng.permutation(MEMBERS)
        )
    ]
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + "\n".join(rows) + "\n")
    return folder


def quality(tmp_path: Path, *arguments: str) -> Options:
    return parse(["--out", str(tmp_path / "quality.json"), "--folder", str(tmp_path / "run"), *arguments])


def test_baselines_are_measured_and_other_figures_are_kept(tmp_path: Path) -> None:
    release = write_release(tmp_path / "ml-small")
    options = quality(tmp_path, "--only", "baselines", "--data", str(release), "--baselines", "entity_mean", "biases")
    options.out.write_text(json.dumps({"movielens_small": {"train_seconds": 7.5}, "movielens_other": {"rows": 3}}))
    output = io.StringIO()
    content = run(options, PlainConsole(file=output, width=200))
    assert json.loads(options.out.read_text()) == json.loads(json.dumps(content))
    assert content["movielens_small"]["train_seconds"] == 7.5
    assert content["movielens_other"] == {"rows": 3}
    figures = content["movielens_small"]["baselines"]
    assert set(figures) == {"entity_mean", "biases"}
    # 240 of the 1,200 rows are later than the cut; a film is liked by 80% or by 20% of the members.
    assert figures["entity_mean"]["rows"] == 240
    assert 0.7 < figures["entity_mean"]["streaming_auc"] < 0.9
    assert "entity_mean" in output.getvalue()


def test_validation_scores_rows_before_the_cut(tmp_path: Path) -> None:
    release = write_release(tmp_path / "ml-small")
    arguments = ["--only", "baselines", "--data", str(release), "--baselines", "entity_mean", "--validation"]
    options = quality(tmp_path, *arguments)
    content = run(options, PlainConsole(file=io.StringIO()))
    assert options.out.name == "quality-validation.json"
    assert content["movielens_small"]["baselines"]["entity_mean"]["rows"] == 192  # a fifth of 960


def test_the_recipes_load_and_the_network_is_one_that_no_base_model_knows() -> None:
    movielens = load_dataset_config(str(RECIPES / "movielens_data.yaml"), ["path=data"])
    job = load_job(str(RECIPES / "movielens.yaml"), ["data=data", "run=run"])
    assert movielens.split == SplitConfig(train_share=TRAIN_SHARE)
    assert job.context_length == movielens.prompt.context_length
    known = [yaml.safe_load(path.read_text())["source_config"]["seed"] for path in SMALL_BASE.glob("*_data.yaml")]
    assert len(known) > 5
    assert load_dataset_config(str(RECIPE), []).source_config.seed not in known


def test_a_missing_base_model_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        quality(tmp_path, "--model", str(tmp_path / "none"))
    assert "make base-model" in capsys.readouterr().err
