"""Follows docs/own-tables.md with generated files of the shape that the page shows: validates, and builds with Ray."""

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from brew_data.data_folder import DataFolder
from brew_platform.errors import DataError

from ..serve.running_ray import RAY

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "own-tables.md"


@pytest.fixture
def shop(page_files: Callable[[str, Path], Path], tmp_path: Path) -> Path:
    """The page's suite and recipe, and CSV files that begin with the rows that it shows."""
    folder = page_files("docs/own-tables.md", tmp_path)
    interactions, items = re.findall(r"```text\n(.*?)```", PAGE.read_text(), re.DOTALL)[:2]
    generator = random.Random(0)
    for number in range(28, 60):
        items += f"{number:03d},Item {number},{generator.choice(['furniture', 'lighting'])},{number}.50\n"
    names = [line.partition(",")[0] for line in items.splitlines()[1:]]
    for number in range(1_500):
        event = generator.choices(["view", "purchase"], [4, 1])[0]
        day, minute = 2 + number // 60, number % 60
        interactions += (
            f"u{generator.randrange(60):04d},{generator.choice(names)},{event},2024-03-{day:02d} 10:{minute:02d}:00\n"
        )
    (folder / "interactions.csv").write_text(interactions)
    (folder / "items.csv").write_text(items)
    return folder


def data(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `brew360 data`."""
    return subprocess.run(
        [str(Path(sys.executable).parent / "brew360"), "data", *arguments],
        cwd=cwd, capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip


def kill_during(phase: str, folder: Path) -> None:
    """Start the build of the page, and kill it with SIGKILL when a phase has begun."""
    build = subprocess.Popen(
        [str(Path(sys.executable).parent / "brew360"), "data", "build", "shop.yaml", "--out", "data/shop"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    with build:
        assert build.stdout is not None
        assert any(f"] {phase} ..." in line for line in build.stdout)
        started = psutil.Process(build.pid).children(recursive=True)
        build.kill()
        build.stdout.read()
    _, alive = psutil.wait_procs(started, timeout=30)
    assert not alive


def test_the_files_of_the_page_are_valid(shop: Path) -> None:
    done = data("validate", "shop.yaml", cwd=shop)
    assert done.returncode == 0, done.stdout
    assert "The data can be built." in done.stdout
    assert "entities.price" in done.stdout
    assert not (shop / "data").exists()


def test_validate_lists_all_problems_at_once(shop: Path) -> None:
    with (shop / "interactions.csv").open("a") as file:
        file.write("u0001,010,refund,2024-03-20 10:00:00\nu0001,999,view,01.03.2024\n")
    suite = shop / "shop_suite" / "suite.yaml"
    suite.write_text(suite.read_text().replace("fields: [title,", "fields: [brand, title,"))
    done = data("validate", "shop.yaml", "split.train_share=1.5", cwd=shop)
    assert done.stdout.startswith("error: split.train_share is 1.5; give a finite number, more than 0 and less than 1.")
    done = data("validate", "shop.yaml", cwd=shop)
    assert done.returncode == 2
    for words in (
        "interactions.csv line 1505: 'refund'",
        "interactions.csv line 1506: '01.03.2024'",
        "error: entities: suite shop uses the field 'brand' in entities.product, which the entities lack",
        "1 error: the data cannot be built.",
    ):
        assert words in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


class TestBuild:
    """One real build."""

    pytestmark = RAY

    def test_a_killed_build_leaves_no_folder_and_the_next_one_succeeds(self, shop: Path) -> None:
        with (shop / "interactions.csv").open("a") as file:
            file.write("u0001,010,view,yesterday\n")
        partial = shop / "data" / "shop.partial"
        kill_during("bins", shop)
        assert not (shop / "data" / "shop").exists()
        assert (partial / "tables").exists()
        with pytest.raises(DataError, match="its build did not finish"):
            DataFolder.open(partial)
        done = data("build", "shop.yaml", "--out", "data/shop", cwd=shop)
        assert done.returncode == 0, done.stdout
        assert not partial.exists()
        out = shop / "data" / "shop"
        card = json.loads((out / "card.json").read_text())
        assert (card["rows"], card["members"], sum(card["entities"].values())) == (1503, 60, 34)
        assert list(card["quarantined"]["interactions"].values()) == [1]
        [line] = (out / "quarantine" / "interactions.jsonl").read_text().splitlines()
        assert json.loads(line)["line"] == 1505
        assert card["tasks"]["buy"]["training_rows"] + card["tasks"]["buy"]["benchmark_rows"] == 1503
        assert {Path(item["file"]).name for item in card["inputs"]} == {"interactions.csv", "items.csv"}
        assert len(card["inputs"][0]["sha256"]) == 64
        assert set(card["bins"]) == {"bins", "evaluation"}
        assert DataFolder.open(out).bundle().suite.name == "shop"
        assert "1,503 interactions, 60 members, 34 entities" in done.stdout
        assert "next: brew360 train cpt data=data/shop" in done.stdout
        again = data("build", "shop.yaml", "--out", "data/shop", cwd=shop)
        assert again.returncode == 2
        assert "data/shop is a complete data set: choose another folder" in again.stdout
