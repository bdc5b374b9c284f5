"""Times the peer: `datasets.map` with the same fast tokenizer, then TRL's `pack_dataset(strategy="bfd")`.

The time begins with the rendered texts in datasets' own format and ends when the packed rows are on disk. Runs with
.venv/bench on its path.
"""

import argparse
import json
import os
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from datasets import Dataset, disable_progress_bars  # type: ignore[import-not-found]
from transformers import PreTrainedTokenizerFast
from trl import pack_dataset  # type: ignore[import-not-found]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.data.peer", description=__doc__)
    parser.add_argument("texts", type=Path, help="Parquet file of bench.data.texts.")
    parser.add_argument("--tokenizer", type=Path, required=True, help="The tokenizer.json.")
    parser.add_argument("--capacity", type=int, required=True, help="Tokens of a row.")
    parser.add_argument("--processes", type=int, default=1, help="Processes of `map`; 1: threads of the tokenizer.")
    parser.add_argument("--report", type=Path, required=True, help="JSON file for the figures.")
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if options.processes == 1 else "false"
    disable_progress_bars()
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(options.tokenizer))
    settings: dict[str, Any] = {"num_proc": options.processes} if options.processes > 1 else {}

    def encode(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        encoded = tokenizer(
            batch["text"], add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False
        )
        return {"input_ids": encoded["input_ids"]}

    with tempfile.TemporaryDirectory(dir=options.report.parent) as cache:
        texts = Dataset.from_parquet(str(options.texts), cache_dir=cache)
        lengths = list(texts["length"])
        start = time.perf_counter()
        encoded = texts.map(encode, batched=True, remove_columns=texts.column_names, **settings)
        mapped = time.perf_counter()
        packed = pack_dataset(encoded, seq_length=options.capacity, strategy="bfd", map_kwargs=settings)
        end = time.perf_counter()
        own = pc.list_value_length(encoded.with_format("arrow")[:]["input_ids"]).to_pylist()
        report = {
            "seconds": end - start,
            "map_seconds": mapped - start,
            "pack_seconds": end - mapped,
            "tokens": sum(own),
            "documents": len(own),
            "bins": len(packed),
            "fill": sum(own) / (len(packed) * options.capacity),
            "same_length": sum(a == b for a, b in zip(own, lengths, strict=True)) / len(own),
            "settings": {"processes": options.processes, "batch_size": 1000},
            "versions": {name: version(name) for name in ("datasets", "trl")},
        }
    options.report.write_text(json.dumps(report))


if __name__ == "__main__":
    main()
