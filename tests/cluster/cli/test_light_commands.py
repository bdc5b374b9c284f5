"""Help, and the commands of the cluster definition, start fast: they import neither PyTorch, Ray nor FastAPI."""

import subprocess
import sys
from pathlib import Path

HEAVY = {"torch", "ray", "fastapi", "transformers", "vllm", "pandas", "sklearn"}
CODE = f"""
import sys
from brew_cluster.cli.main import main
for line in (
    "--help", "cluster --help", "cluster check h100_512", "cluster plan h100_512",
    "cluster render h100_512 --to kuberay --out kuberay", "cluster render h100_512 --to ray-up --out machines",
):
    sys.argv = ["brew360", *line.split()]
    try:
        main()
    except SystemExit as end:
        assert not end.code, line
    found = {HEAVY} & set(sys.modules)
    assert not found, f"brew360 {{line}} imports {{', '.join(sorted(found))}}"
"""


def test_help_and_the_cluster_definition_import_nothing_heavy(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "kuberay/manifests/60-cluster.yaml").is_file()
