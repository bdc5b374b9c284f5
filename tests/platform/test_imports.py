"""Importing the platform is cheap: nothing heavy comes with it."""

import subprocess
import sys


def test_no_heavy_library_is_imported_with_the_platform() -> None:
    code = (
        "import importlib, pkgutil, sys, brew_platform\n"
        "names = [m.name for m in pkgutil.iter_modules(brew_platform.__path__)]\n"
        "for name in names: assert importlib.import_module(f'brew_platform.{name}').__all__\n"
        "heavy = {'ray', 'torch', 'sklearn', 'transformers', 'vllm', 'pandas'}\n"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "\n"
