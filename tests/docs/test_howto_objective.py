"""Follows docs/how-to/add-an-objective.md: builds its package in a temporary folder and trains with it."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "add-an-objective.md"
BLOCK = re.compile(r"^`([\w./]+)`:\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SCRIPT = """
import sys
from pathlib import Path
import torch
from brew_cluster.jobs.train import load_job
from brew_train.config import ModelShape
from brew_train.distributed.context import DistributedContext
from brew_train.loop import train
from brew_train.run_context import RunContext

torch.set_num_threads(1)
recipe, bins, out = map(Path, sys.argv[1:])
sizes = {"hidden_size": 16, "intermediate_size": 16, "layers": 1, "heads": 2, "kv_heads": 1}
job = load_job(str(recipe), ["train.workers=1", *(f"train.model.{name}={size}" for name, size in sizes.items())])
assert list(job.bins) == ["sft"]
train(
    job.train,
    RunContext(
        bins={"sft": bins},
        out=out,
        shape=ModelShape(vocabulary_size=97, context_length=64),
        distributed=DistributedContext(device=torch.device("cpu")),
    ),
)
"""


def write_package(folder: Path) -> list[str]:
    """Writes the blocks of the page, and the metadata that an installation of the package would write."""
    blocks = BLOCK.findall(PAGE.read_text())
    for path, text in blocks:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    metadata = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = [
        line
        for group, entries in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()))
    ]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return [path for path, _ in blocks]


def test_the_objective_of_the_page_trains(write_bins: Callable[..., Path], tmp_path: Path) -> None:
    package = tmp_path / "package"
    assert write_package(package) == ["brew_focal/objective.py", "pyproject.toml", "recipe.yaml"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(package), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    out = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(package / "recipe.yaml"), str(write_bins(tmp_path / "bins")), str(out)],
        capture_output=True, text=True, env=environment, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(0 < row["loss"] < row["answer_loss"] for row in rows)  # a weight below 1 for each token
    assert (out / "export" / "model.safetensors").is_file()
