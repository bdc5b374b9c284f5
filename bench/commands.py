"""The product's command line, as the steps of benchmarks run it."""

import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

__all__ = ["BREW360", "TRAINING"]

BREW360 = str(Path(sys.executable).parent / "brew360")
# Environment of `brew360 train`: threads that spin slow each other down beside other processes.
TRAINING: Mapping[str, str] = MappingProxyType({"OMP_WAIT_POLICY": "PASSIVE"})
