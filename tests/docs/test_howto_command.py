"""The example of docs/how-to/add-a-command.md runs."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import typer
from typer.testing import CliRunner

from brew_platform.registry.registry import Registry
from brew_platform.storage.base import open_store


def test_the_example_is_a_command(page_files: Callable[[str | Path, Path], Path], tmp_path: Path) -> None:
    folder = page_files("docs/how-to/add-a-command.md", tmp_path / "page")
    file = folder / "cluster/brew_cluster/cli/commands/versions.py"
    spec = importlib.util.spec_from_file_location("versions", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    app = typer.Typer()
    app.callback()(lambda: None)
    module.register(app)

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"x")
    registry = Registry(open_store(str(tmp_path / "registry")))
    registry.publish(tmp_path / "model", signature={}, lineage={}, metrics={}, author="test")

    done = CliRunner().invoke(app, ["versions", "--registry", str(tmp_path / "registry")])
    assert (done.exit_code, done.output) == (0, "1\n")
    failed = CliRunner().invoke(app, ["versions", "--registry", "gs://bucket"])
    assert failed.exit_code == 1
    assert failed.output.startswith("error: gs://bucket: the scheme gs:// is not supported.")
