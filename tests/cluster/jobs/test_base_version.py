"""A base model as a version folder: its weights, the prompts of the data, and rows for tokens that it lacks."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from brew_cluster.jobs.base_version import make_base_version
from brew_data.prompts.bundle import PromptBundle
from brew_data.prompts.compiler import PromptFormat
from brew_data.prompts.suite import changed_suite, load_suite
from brew_data.prompts.tokenizer import Tokenizer
from brew_platform.errors import UserError
from brew_serve.version import load_version
from brew_train.model.vocabulary import vocabulary_rows

from ...base_tokenizers import write_base_tokenizer
from ...tiny_families import write_tiny

FORMAT = PromptFormat(context_length=256, head_tokens=64, question_tokens=64)


def make_base(folder: Path, family: str, model_type: str, *, missing: int = 0) -> PromptBundle:
    """Write a base model whose embeddings have `missing` rows fewer than the data's tokenizer has ids."""
    folder.mkdir()
    write_base_tokenizer(family, folder)
    tokenizer = Tokenizer.from_model(folder)
    write_tiny(model_type, folder, vocab_size=tokenizer.vocabulary_size - missing)
    write_base_tokenizer(family, folder)
    return PromptBundle(suite=load_suite("movielens"), format=FORMAT, tokenizer=tokenizer)


def test_the_files_of_a_model_with_all_tokens_are_links(tmp_path: Path) -> None:
    bundle = make_base(tmp_path / "gemma", "gemma3", "gemma3_text")
    for _ in range(2):
        folder = make_base_version(tmp_path / "gemma", bundle, tmp_path / "version")
    assert (folder / "model.safetensors").resolve() == tmp_path / "gemma" / "model.safetensors"
    assert (folder / "config.json").is_symlink()
    assert load_version(folder).compiler.tokenizer.digest == bundle.tokenizer.digest
    assert not (tmp_path / "gemma" / "prompt.json").exists()


def test_an_unfinished_folder_is_made_again(tmp_path: Path) -> None:
    bundle = make_base(tmp_path / "gemma", "gemma3", "gemma3_text")
    folder = make_base_version(tmp_path / "gemma", bundle, tmp_path / "version")
    (folder / "prompt.json").unlink()
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(tmp_path / "gone")
    make_base_version(tmp_path / "gemma", bundle, tmp_path / "version")
    assert load_version(folder).suite.name == "movielens"


def test_a_model_that_was_moved_is_linked_again(tmp_path: Path) -> None:
    bundle = make_base(tmp_path / "gemma", "gemma3", "gemma3_text")
    make_base_version(tmp_path / "gemma", bundle, tmp_path / "version")
    (tmp_path / "gemma").rename(tmp_path / "moved")
    folder = make_base_version(tmp_path / "moved", bundle, tmp_path / "version")
    assert (folder / "model.safetensors").resolve() == tmp_path / "moved" / "model.safetensors"


def test_missing_rows_are_those_that_training_starts_with(tmp_path: Path) -> None:
    bundle = make_base(tmp_path / "mixtral", "mixtral", "mixtral", missing=4)
    folder = make_base_version(tmp_path / "mixtral", bundle, tmp_path / "version")
    before, after = (load_file(path / "model.safetensors") for path in (tmp_path / "mixtral", folder))
    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    base = bundle.tokenizer.vocabulary_size - 4
    assert rows % 64 == 0
    assert rows >= bundle.tokenizer.vocabulary_size
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert torch.equal(after[name][:base], before[name])
        ids = bundle.tokenizer.role_ids
        drawn = vocabulary_rows(
            name, before[name].__getitem__, slice(base, rows), base=base, padded=rows, control_ids=ids, seed=0
        )
        assert torch.equal(after[name][base:], drawn)
    same = [name for name in before if "embed_tokens" not in name and "lm_head" not in name]
    assert same
    assert all(torch.equal(before[name], after[name]) for name in same)
    assert load_version(folder).compiler.tokenizer.vocabulary_size == bundle.tokenizer.vocabulary_size


def test_a_model_with_another_tokenizer_or_a_smaller_context_is_refused(tmp_path: Path) -> None:
    bundle = make_base(tmp_path / "gemma", "gemma3", "gemma3_text")
    (tmp_path / "other").mkdir()
    write_tiny("llama", tmp_path / "other", vocab_size=1000)
    write_base_tokenizer("llama3", tmp_path / "other")
    with pytest.raises(UserError, match="has another tokenizer than the data"):
        make_base_version(tmp_path / "other", bundle, tmp_path / "version")
    long = PromptBundle(
        suite=bundle.suite, format=PromptFormat(context_length=512, head_tokens=64, question_tokens=64),
        tokenizer=bundle.tokenizer,
    )  # fmt: skip
    with pytest.raises(UserError, match="reads at most 256 tokens"):
        make_base_version(tmp_path / "gemma", long, tmp_path / "version")
    assert not (tmp_path / "version").exists()


def test_an_export_with_other_label_words(tmp_path: Path) -> None:
    bundle = make_base(tmp_path / "export", "mixtral", "mixtral")
    bundle.save(tmp_path / "export")
    suite = changed_suite(bundle.suite, ["surfaces.ratings.actions.rated_5.label=superb"])
    folder = make_base_version(tmp_path / "export", replace(bundle, suite=suite), tmp_path / "version")
    assert load_version(folder).suite.surface("ratings").label("rated_5") == "superb"
    assert (folder / "model.safetensors").resolve() == tmp_path / "export" / "model.safetensors"
    assert PromptBundle.load(tmp_path / "export").digest == bundle.digest
