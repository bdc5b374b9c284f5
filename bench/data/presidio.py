"""Compares the removal of contacts with Presidio's recognizers, on the texts of an economic graph.

Presidio is installed apart from brew360, because it pins other packages:

python3 -m venv .venv/presidio && .venv/presidio/bin/pip install presidio-analyzer

python -m bench.data.presidio --python .venv/presidio/bin/python --report presidio.json

Both read all texts with a planted contact and some of the others. Presidio runs its recognizers that need no language
model: e-mail addresses, telephone numbers, links, IP addresses, IBAN, cards and US social security numbers. It prints
recall by kind of the planted contacts, precision and time, and writes them to the report.
"""

import argparse
import json
import random
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from bench.data.contacts import draw_texts

from brew_data.privacy.measure import RemovalQuality
from brew_data.privacy.redaction import Identifier, find_identifiers
from brew_platform.files import replace_atomically
from brew_platform.provenance import machine, now

PEER = Path(__file__).with_name("presidio_peer.py")
Text = tuple[str, list[Identifier]]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.data.presidio", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", type=Path, required=True, help="Interpreter that has presidio-analyzer.")
    parser.add_argument("--members", type=int, default=2_000, help="Of the graph. Default: %(default)s.")
    parser.add_argument("--seed", type=int, default=1, help="Of the graph. Default: %(default)s.")
    parser.add_argument("--others", type=int, default=4_000, help="Texts without a contact. Default: %(default)s.")
    parser.add_argument("--report", type=Path, required=True, help="JSON file for the figures.")
    options = parser.parse_args()
    texts = select_texts(options.members, options.seed, options.others)
    with TemporaryDirectory() as folder:
        lines, output = Path(folder) / "texts.json", Path(folder) / "found.json"
        lines.write_text(json.dumps([line for line, _ in texts]))
        subprocess.run([options.python, PEER, lines, output], check=True)
        peer = json.loads(output.read_text())
    spans = {line: merge(found) for (line, _), found in zip(texts, peer["found"], strict=True)}
    start = time.process_time()
    for line, _ in texts:
        find_identifiers(line)
    seconds = time.process_time() - start
    report = {
        "members": options.members,
        "seed": options.seed,
        "texts": len(texts),
        "brew360": figures(find_identifiers, texts, seconds),
        "presidio": figures(spans.__getitem__, texts, peer["seconds"]) | {"version": peer["version"]},
        "machine": machine(),
        "date": now(),
    }
    replace_atomically(options.report, json.dumps(report, indent=1) + "\n")
    for name in ("brew360", "presidio"):
        of = report[name]
        kinds = ", ".join(f"{kind} {counts['recall']:.3f}" for kind, counts in of["kinds"].items())
        print(
            f"{name}: recall {of['recall']:.3f} ({kinds}), precision {of['precision']:.3f}, {of['microseconds']:.0f} us"
        )


def select_texts(members: int, seed: int, others: int) -> list[Text]:
    """Return all texts of a graph with a planted contact, and some others, with single spaces and their contacts."""
    tables, planted = draw_texts(members, seed)
    truth: dict[tuple[str, str, str], list[Identifier]] = defaultdict(list)
    for row in planted.to_pylist():
        place = row["table"], row["row_id"], row["field"]
        truth[place].append(Identifier(row["kind"], row["start"], row["end"]))
    found: list[Text] = []
    for table, rows in tables.items():
        key, column = ("member_id", "profile") if table == "members" else ("entity_id", "fields")
        ids = rows[key].to_pylist()
        for child in rows.schema.field(column).type:
            if pa.types.is_string(child.type):
                for id_, text in zip(ids, pc.struct_field(rows[column], child.name).to_pylist(), strict=True):
                    if text and text == " ".join(text.split()):  # other places differ from those of the truth
                        found.append((text, truth.get((table, id_, child.name), [])))
    rest = [text for text in found if not text[1]]
    return [text for text in found if text[1]] + random.Random(0).sample(rest, min(others, len(rest)))


def merge(found: Sequence[Sequence[Any]]) -> list[Identifier]:
    """Return identifiers without those that overlap an earlier or longer one."""
    merged: list[Identifier] = []
    for kind, start, end in sorted(found, key=lambda hit: (hit[1], -hit[2])):
        if not merged or start >= merged[-1].end:
            merged.append(Identifier(kind, start, end))
    return merged


def figures(find: Callable[[str], Sequence[Identifier]], texts: Sequence[Text], seconds: float) -> dict[str, Any]:
    quality = RemovalQuality(find=find)
    for line, planted in texts:
        quality.add(line, planted)
    return {**quality.figures(), "microseconds": round(seconds / len(texts) * 1e6, 1)}


if __name__ == "__main__":
    main()
