"""The card of the small base model: README.md and card.json of its folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from brew_platform.files import replace_atomically
from brew_platform.registry.model_digest import folder_digest

__all__ = ["CARD", "README", "write_card"]

CARD, README = "card.json", "README.md"
LICENSE = "apache-2.0"

TEMPLATE = """---
license: {license}
tags: [ranking, brew360]
---

# small-base

A decoder of {parameters:,} parameters ({bytes:,} bytes in bfloat16) that was trained from scratch on texts of generated
professional networks. `make base-model ARGS="--demo"` starts the demo from it, as production starts from a large model.

| | |
|---|---|
| architecture | {architecture}: {layers} layers, width {hidden_size}, {heads} heads |
| vocabulary, context | {vocabulary:,} and {context:,} tokens |
| digest | `{digest}` |
| date, commit | {date}, {commit} |
| versions | {versions} |
| license | {license}; no text of a person or of a third party was used |

## Training

| stage | data (`bench/small_base/recipes`) | loss | tokens |
|---|---|---|---|
{stages}

The source is `economic_graph` (docs/economic_graph.md) with the seeds {seeds}. `make base-model` repeats it, in
{hours:.1f} hours on {machine}.

## What it has seen, and what it has not

- It has seen the surfaces {trained}, and the phrases of the generator, in five languages.
- It has not seen the surfaces {unseen}: their texts are neither in the tokenizer's corpus nor in training. They are
  written with the same phrases for topics, industries and skills.
- It has not seen the graphs with other seeds: neither seed 0, which the demo uses, nor seed {measured_seed}, which it
  is measured on.
- Members, names and companies are drawn at random. Addresses and other identifiers were removed by the privacy stage.
- It has no knowledge of the world, and its texts are useless outside of this graph.

## Measured

AUC on {rows:,} interactions of the last month of a graph that it was not trained on:

| task | | rows | popularity | matches | history | small-base | best | gap closed |
|---|---|---|---|---|---|---|---|---|
{tasks}

*matches* and *history* are logistic regressions on facts, not on texts. They were fitted on the earlier months of a
larger graph with the same seed, and are measured on its last month.
"""


def write_card(folder: Path, figures: Mapping[str, Any], point: Mapping[str, Any]) -> str:
    """Write both files of the card.

    Args:
        folder: The model: config.json, weights, tokenizer.
        figures: `stages` (each with name, recipe, loss, tokens), `seeds`, `measured_seed`, `trained` and `unseen`
            surfaces, `seconds`, `parameters`, `machine`, `versions`, `date`, `commit`.
        point: What was measured, from `result.curve_point`.

    Returns:
        The content of README.md.
    """
    config = json.loads((folder / "config.json").read_text())
    card = {**figures, "digest": folder_digest(folder), "license": LICENSE, "measured": point}
    text = TEMPLATE.format(
        license=LICENSE,
        parameters=figures["parameters"],
        bytes=sum(path.stat().st_size for path in folder.glob("*.safetensors")),
        architecture=config["architectures"][0],
        layers=config["num_hidden_layers"],
        hidden_size=config["hidden_size"],
        heads=config["num_attention_heads"],
        vocabulary=config["vocab_size"],
        context=config["max_position_embeddings"],
        digest=card["digest"],
        date=figures["date"],
        commit=figures["commit"],
        versions=", ".join(f"{name} {version}" for name, version in figures["versions"].items() if version),
        stages="\n".join(
            f"| {stage['name']} | {stage['recipe']} | {stage['loss']} | {stage['tokens']:,} |"
            for stage in figures["stages"]
        ),
        seeds=", ".join(map(str, figures["seeds"])),
        hours=figures["seconds"] / 3600,
        machine=figures["machine"],
        trained=", ".join(figures["trained"]),
        unseen=", ".join(figures["unseen"]),
        measured_seed=figures["measured_seed"],
        rows=point["rows"],
        tasks="\n".join(
            f"| {name} | {'T1' if task['is_trained'] else 'T2'} | {task['rows']:,} | {_number(task['popularity'])} "
            f"| {_number(task['matches'])} | {_number(task['history'])} | {_number(task['auc'])} "
            f"| {_number(task['best'])} | {_number(task['gap_closed'])} |"
            for name, task in point["tasks"].items()
        ),
    )
    replace_atomically(folder / CARD, json.dumps(card, indent=1) + "\n")
    replace_atomically(folder / README, text)
    return text


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
