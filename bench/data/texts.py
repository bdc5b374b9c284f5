"""Writes the documents of packed bins as texts, the input of the peer.

The peer gets rendered texts: it need not read tables or render records. Control tokens are in the texts, so that the
peer's tokenizer yields the same ids.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer

from brew_train.config import ModelShape
from brew_train.inputs.bin_folder import read_plan
from brew_train.inputs.bin_reader import BinReader

__all__ = ["write_texts"]

BINS_PER_BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.data.texts", description=__doc__)
    parser.add_argument("bins", type=Path, help="Folder of packed bins.")
    parser.add_argument("--tokenizer", type=Path, required=True, help="The tokenizer.json of the bins.")
    parser.add_argument("--out", type=Path, required=True, help="Parquet file for the texts.")
    options = parser.parse_args()
    write_texts(options.bins, options.tokenizer, options.out)


def write_texts(bins: Path, tokenizer_file: Path, out: Path) -> None:
    """Write the texts of all documents of a folder of bins.

    Args:
        bins: The folder.
        tokenizer_file: The tokenizer.json.
        out: A Parquet file with the columns text, and length: the number of ids that the document has in the bins.
    """
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    schema = pa.schema({"text": pa.string(), "length": pa.int64()})
    with pq.ParquetWriter(out, schema) as writer:
        for documents in _documents(bins):
            texts = tokenizer.decode_batch([ids.tolist() for ids in documents], skip_special_tokens=False)
            writer.write_table(pa.table([texts, list(map(len, documents))], schema=schema))


def _documents(bins: Path) -> Iterator[list[np.ndarray]]:
    plan = read_plan(bins)
    reader = BinReader(bins, ModelShape(vocabulary_size=plan.vocabulary_size, context_length=plan.context_length))
    for start in range(0, reader.n_bins, BINS_PER_BATCH):
        documents: list[np.ndarray] = []
        for bin_id in range(start, min(start + BINS_PER_BATCH, reader.n_bins)):
            bin_ = reader[bin_id]
            documents += np.split(bin_.input_ids, np.cumsum(bin_.doc_lengths)[:-1])
        yield documents


if __name__ == "__main__":
    main()
