"""The figures of `make bench-data`: bench/out/data.json and the table."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ["FIGURES", "scale_figures", "show", "speed_figures"]

# Figure -> what it is, and target of the project
FIGURES: dict[str, tuple[str, str]] = {
    "ours_tokens_per_second": ("prompts rendered, tokenized and packed by us, tokens/s", ""),
    "peer_tokens_per_second": ("the same prompts tokenized by datasets.map and packed by TRL, tokens/s", ""),
    "ratio": ("ours / peer", ">= 8"),
    "chats_ours_tokens_per_second": ("the same with chats, whose interactions occur once", ""),
    "chats_peer_tokens_per_second": ("the same chats by the peer", ""),
    "chats_ratio": ("ours / peer", ">= 8"),
    "fill": ("share of the bins of 4,096 tokens with chats that holds tokens", ">= 0.99"),
    "interactions_per_second": ("of the large build, from start to exit of the command", ""),
    "peak_rss_gb_500k": ("GB of all processes, small build", ""),
    "peak_rss_gb_5m": ("GB of all processes, large build", "< 8"),
    "memory_ratio_5m_500k": ("memory of the large build / of the small one", "< 1.3"),
    "time_ratio_5m_500k": ("seconds per interaction of the large build / of the small one", "< 1.3"),
    "pii_recall": ("share of the planted contacts that are removed", ">= 0.98"),
    "pii_precision": ("share of the removed spans that are planted contacts", ">= 0.95"),
}


def scale_figures(small: Mapping[str, Any], large: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of two builds.

    Args:
        small: `interactions`, `seconds` and `peak_bytes` of the build of 500 thousand interactions.
        large: The same of 5 million.
    """
    time_ratio = (large["seconds"] / large["interactions"]) / (small["seconds"] / small["interactions"])
    return {
        "interactions_per_second": large["interactions"] / large["seconds"],
        "peak_rss_gb_500k": small["peak_bytes"] / 1e9,
        "peak_rss_gb_5m": large["peak_bytes"] / 1e9,
        "memory_ratio_5m_500k": large["peak_bytes"] / small["peak_bytes"],
        "time_ratio_5m_500k": time_ratio,
    }


def speed_figures(speed: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the figures of the comparison with the peer.

    Args:
        speed: From `bench.data.speed.summarize`, of `prompts` and of `chats`.
    """
    names = ("ours_tokens_per_second", "peer_tokens_per_second", "ratio")
    return {
        **{name: speed["prompts"][name] for name in names},
        **{f"chats_{name}": speed["chats"][name] for name in names},
        "fill": speed["chats"]["fill"],
    }


def show(content: Mapping[str, Any], console: Console) -> None:
    """Print a table of the figures.

    Args:
        content: Of data.json. A figure that was not measured is None.
        console: The output.
    """
    table = Table(title="The data pipeline", title_justify="left")
    for name in ("figure", "value", "target", "what"):
        table.add_column(name, justify="right" if name == "value" else "left")
    for name, (what, target) in FIGURES.items():
        table.add_row(name, _text(content.get(name)), target, what)
    console.print(table)
    for build in content.get("builds", {}).values():
        phases = ", ".join(f"{name} {seconds:,.0f}" for name, seconds in build["phase_seconds"].items())
        size = f"{build['interactions']:,} interactions, {build['tokens']:,} tokens"
        console.print(f"{size}: {build['seconds']:,.0f} s ({phases})", soft_wrap=True, markup=False, highlight=False)


def _text(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 1_000 else f"{value:.4g}"
