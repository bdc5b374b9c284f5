"""Writes the results of `make bench-train` to bench/out/train.json, and formats the table.

The parts of the file are `speed`, `blocked` and `kills`; each has its date. The figures at the top are computed from
the parts, and are null if their part was not run. Parts from other code or another machine are dropped.
"""

import hashlib
import json
import os
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.train.contenders import CONTENDERS, OPPONENTS, median_speed

from brew_platform.files import replace_atomically
from brew_platform.provenance import machine, now, versions

__all__ = ["FIGURES", "Result", "code_digest", "table"]

# Figure -> unit, and target of the project
FIGURES: dict[str, tuple[str, str]] = {
    "tokens_per_second": ("real tokens/s, two FSDP2 workers", ""),
    "ratio_vs_trl": ("x the fastest of TRL's settings that ran", ">= 3"),
    "ratio_vs_trl_default": ("x TRL with packing and otherwise its default settings", ""),
    "fsdp_vs_ddp": ("x the same step under DDP", ">= 0.85"),
    "checkpoint_blocked_share": ("of the interval at 100 steps", "< 0.01"),
    "restart_seconds": ("s from kill -9 to the next new step, median", "< 40"),
    "restart_seconds_max": ("s, the longest", "< 40"),
    "restart_seconds_own": ("s of that in the project's code, median", "<= 5"),
    "restart_seconds_own_max": ("s, the longest", "<= 5"),
    "kills": ("workers killed", "20"),
    "kills_in_checkpoint": ("of them at an instant at which a checkpoint was being written", ""),
    "kills_bitwise": ("after which the loss curve is bitwise the uninterrupted one", "all"),
    "ledger_exact": ("each bin once, step for step as in the uninterrupted run", "true"),
}
PACKAGES = ["torch", "transformers", "ray", "schedulefree", "numpy", "pyarrow"]


class Result:
    """The result file. It is rewritten after every measurement, so an interruption loses no finished one.

    Args:
        path: The file; its folder is created.
        commit: The git commit of the running code.
        code: The digest of the measured code (`code_digest`); unlike the commit, it covers uncommitted changes.
    """

    def __init__(self, path: Path, *, commit: str | None, code: str) -> None:
        self.path, self.commit, self.code = path, commit, code
        self.parts: dict[str, dict[str, Any]] = {}
        self.dropped: list[str] = []  # parts of an earlier file, from other code or another machine
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            earlier = json.loads(path.read_text())
            same = earlier.get("code") == code and earlier.get("machine") == machine()
            for name, part in earlier.get("parts", {}).items():
                if same:
                    self.parts[name] = part
                else:
                    self.dropped.append(name)

    def put(self, name: str, part: Mapping[str, Any]) -> None:
        """Replace one part and write the file."""
        self.parts[name] = {**part, "date": now(), "load": os.getloadavg()}
        self.write()

    def figures(self) -> dict[str, Any]:
        """Return the values of FIGURES; None for a figure that was not measured."""
        figures: dict[str, Any] = dict.fromkeys(FIGURES)
        rounds = self.parts.get("speed", {}).get("rounds", [])
        ours, ddp = median_speed(rounds, "ours"), median_speed(rounds, "ddp")
        figures["tokens_per_second"] = ours
        opponents = [speed for name in OPPONENTS if (speed := median_speed(rounds, name))]
        if ours and opponents:
            figures["ratio_vs_trl"] = ours / max(opponents)
        if ours and (default := median_speed(rounds, "trl_default")):
            figures["ratio_vs_trl_default"] = ours / default
        if ours and ddp:
            figures["fsdp_vs_ddp"] = ours / ddp
        if "blocked" in self.parts:
            figures["checkpoint_blocked_share"] = self.parts["blocked"]["share"]
        if "kills" in self.parts:
            figures |= _kill_figures(self.parts["kills"])
        return figures

    def write(self) -> None:
        """Write the file atomically."""
        content = {
            **self.figures(),
            "machine": machine(),
            "versions": versions(PACKAGES),
            "date": now(),
            "commit": self.commit,
            "code": self.code,
            "parts": self.parts,
        }
        replace_atomically(self.path, json.dumps(content, indent=2))


def _kill_figures(part: Mapping[str, Any]) -> dict[str, Any]:
    found = [kill["recovery"] for kill in part["kills"] if kill["recovery"]]
    figures: dict[str, Any] = {
        "kills": len(part["kills"]),
        "kills_in_checkpoint": sum(kill["in_checkpoint"] for kill in part["kills"]),
        # If the final weights differ, no kill counts as bitwise equal.
        "kills_bitwise": part["curve_bitwise_kills"] if part["export_bitwise"] else 0,
        "ledger_exact": part["ledger_exact"],
    }
    for figure, name in (("restart_seconds", "restart"), ("restart_seconds_own", "own")):
        values = [recovery[name] for recovery in found]
        figures[figure] = statistics.median(values) if values else None
        figures[f"{figure}_max"] = max(values, default=None)
    return figures


def table(result: Result) -> str:
    """Format all figures as a table."""
    lines: list[str] = []
    speed = result.parts.get("speed")
    if speed and speed["rounds"]:
        rounds = speed["rounds"]
        ours = median_speed(rounds, "ours")
        heading = f"real tokens/s in {len(rounds)} rounds"
        lines.append(f"{heading:<52}{'median':>9}{'lowest':>9}{'highest':>9}  ours/it")
        for name, contender in CONTENDERS.items():
            median = median_speed(rounds, name)
            if median is None:
                continue
            values = [round_[name] for round_ in rounds if name in round_]
            ratio = f"{ours / median:9.2f}" if ours else ""
            lines.append(f"{contender.title:<52}{median:9,.0f}{min(values):9,.0f}{max(values):9,.0f}{ratio}")
        lines.append("")
    figures = result.figures()
    for name, (meaning, goal) in FIGURES.items():
        value = figures[name]
        shown = "-" if value is None else f"{value:,.4g}" if isinstance(value, float) else str(value).lower()
        lines.append(f"{name:<26}{shown:>9}  {meaning}{f' (target: {goal})' if goal else ''}")
    return "\n".join(lines)


def code_digest(root: Path) -> str:
    """Return the SHA-256 digest of the training code, this benchmark and the pinned packages."""
    digest = hashlib.sha256()
    folders = ("bench/train", "train/brew_train", "platform/brew_platform", "requirements")
    for path in sorted(
        path for folder in folders for path in (root / folder).rglob("*") if path.suffix in (".py", ".txt")
    ):
        digest.update(f"{path.relative_to(root)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()
