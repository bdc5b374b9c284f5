"""Creates the workload of all contenders: a model, documents, and packed bins.

    workload/model/         the initial weights of all contenders, and config.json, in Hugging Face format
    workload/tokenizer/     tokenizer.json
    workload/bins/          the bins, as brew_train reads them

The documents are random words, drawn by Zipf's law from a fixed list, so no text repeats and token frequencies are like
those of language. The benchmark depends on lengths, vocabulary and the share of real tokens, not on the content.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from bench.words import draw_words, vocabulary
from transformers import MixtralConfig, MixtralForCausalLM
from transformers.utils import logging

from brew_data.packed_bins.packing import pack
from brew_data.packed_bins.plan import BinsFile, BinsPlan, digest_file
from brew_data.prompts.tokenizer import train_tokenizer
from brew_platform.files import replace_atomically
from brew_train.config import ModelShape
from brew_train.inputs.bin_reader import BinReader

__all__ = ["CONTEXT", "SHAPE", "VOCABULARY", "Workload", "make_workload", "open_workload"]

CONTEXT = 1024  # tokens in a bin
VOCABULARY = 1024  # ids
SHAPE = ModelShape(vocabulary_size=VOCABULARY, context_length=CONTEXT)
SHORTEST, LONGEST = 150, 900  # tokens of a document, uniform; the range of one member's prompts
SEED = 20
# 1,117,312 parameters: the product's default width, depth and heads, with narrower experts
MODEL = {
    "hidden_size": 128,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A folder that `make_workload` wrote."""

    folder: Path
    parameters: int
    n_bins: int
    n_documents: int
    n_tokens: int

    @property
    def model(self) -> Path:
        """Initial weights, as a Hugging Face folder."""
        return self.folder / "model"

    @property
    def tokenizer(self) -> Path:
        """Folder with tokenizer.json."""
        return self.folder / "tokenizer"

    @property
    def bins(self) -> Path:
        """Folder of packed bins."""
        return self.folder / "bins"

    @property
    def fill(self) -> float:
        """The share of the bins' capacity that holds tokens."""
        return self.n_tokens / (self.n_bins * CONTEXT)

    def reader(self) -> BinReader:
        """Return a reader of the bins."""
        return BinReader(self.bins, SHAPE)

    def documents(self) -> list[list[int]]:
        """Return the token ids of all documents, in the order of the bins."""
        reader = self.reader()
        documents: list[list[int]] = []
        for bin_id in range(self.n_bins):
            row = reader[bin_id]
            documents += [part.tolist() for part in np.split(row.input_ids, np.cumsum(row.doc_lengths)[:-1])]
        return documents


def open_workload(folder: Path) -> Workload:
    """Open the workload in `folder`."""
    return Workload(folder=folder, **json.loads((folder / "workload.json").read_text()))


def make_workload(folder: Path, *, documents: int, seed: int = SEED) -> Workload:
    """Write the workload. Equal arguments give equal files.

    Args:
        folder: The folder to create; existing files are overwritten.
        documents: The number of documents.
        seed: The seed of lengths and words.

    Returns:
        The workload.
    """
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    lengths = random.integers(SHORTEST, LONGEST + 1, documents)
    words = vocabulary()
    tokenizer = train_tokenizer((_text(words, random, 400) for _ in range(200)), vocabulary_size=VOCABULARY)
    if tokenizer.vocabulary_size != VOCABULARY:
        raise RuntimeError(f"the tokenizer has {tokenizer.vocabulary_size} ids instead of {VOCABULARY}")
    (folder / "tokenizer").mkdir(exist_ok=True)
    tokenizer.save(folder / "tokenizer")
    ids = [_document(tokenizer.encode, words, random, int(length)) for length in lengths]
    n_bins = _write_bins(folder / "bins", ids)
    parameters = _write_model(folder / "model")
    facts = {
        "parameters": parameters,
        "n_bins": n_bins,
        "n_documents": documents,
        "n_tokens": int(lengths.sum()),
    }
    replace_atomically(
        folder / "workload.json", json.dumps(facts)
    )  # written last, as a mark that the folder is complete
    return open_workload(folder)


def _text(words: list[str], random: np.random.Generator, count: int) -> str:
    lines = np.array_split(np.array(draw_words(words, random, count)), max(1, count // 12))
    return "\n".join(" ".join(line) for line in lines)


def _document(encode: object, words: list[str], random: np.random.Generator, length: int) -> list[int]:
    ids: list[int] = []
    while len(ids) < length:
        ids += encode(_text(words, random, length))  # type: ignore[operator]
    return ids[:length]


def _write_bins(folder: Path, documents: list[list[int]]) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for bin_id, chosen in enumerate(pack([len(ids) for ids in documents], CONTEXT)):
        ids = [i for index in chosen for i in documents[index]]
        rows.append(
            {
                "bin_id": bin_id,
                "input_ids": ids,
                "doc_lengths": [len(documents[index]) for index in chosen],
                "roles": [0] * len(ids),
            }
        )
    schema = pa.schema(
        {
            "bin_id": pa.int64(),
            "input_ids": pa.list_(pa.int32()),
            "doc_lengths": pa.list_(pa.int32()),
            "roles": pa.list_(pa.uint8()),
        }
    )
    path = folder / "bins-00000.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    n_tokens = sum(len(ids) for ids in documents)
    BinsPlan(
        context_length=CONTEXT,
        vocabulary_size=VOCABULARY,
        prompt_digest="",
        n_bins=len(rows),
        n_documents=len(documents),
        n_tokens=n_tokens,
        fill=n_tokens / (len(rows) * CONTEXT),
        files=[BinsFile(name=path.name, sha256=digest_file(path), bytes=path.stat().st_size, bins=len(rows))],
    ).sealed().write(folder)
    return len(rows)


def _write_model(folder: Path) -> int:
    torch.manual_seed(SEED)
    lm = MixtralForCausalLM(
        MixtralConfig(
            **MODEL,
            vocab_size=VOCABULARY,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            initializer_range=0.06,
            router_aux_loss_coef=0.0,  # TRL would add it by default, plain loops would not
            bos_token_id=None,
            eos_token_id=None,
        )
    )
    logging.disable_progress_bar()
    lm.save_pretrained(folder)
    logging.enable_progress_bar()
    return sum(parameter.numel() for parameter in lm.parameters())
