"""Importing the platform is cheap: nothing heavy comes with it."""

import subprocess
import sys


def test_no_heavy_library_is_imported_with_the_platform() -> None:
    code = (
        "import importlib, pkgutil, sys, brew_platform\n"
        "found = pkgutil.walk_packages(brew_platform.__path__, 'brew_platform.')\n"
        "names = [module.name for module in found if not module.ispkg]\n"
        "for name in names: assert importlib.import_module(name).__all__, name\n"
        "heavy = {'ray', 'torch', 'sklearn', 'transformers', 'vllm', 'pandas'}\n"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "\n"
