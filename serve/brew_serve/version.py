"""The files of a served version folder, for batch and online.

    config.json, *.safetensors     the model, as save_pretrained writes it
    tokenizer.json                 its tokenizer
    suite.json                     the tasks and templates it was trained with (`TaskSuite.to_dict`)
    prompt_format.json             the token budget of its prompts (`PromptFormat`)

This module writes the last two files, and loads and checks all but the weights.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from brew_data.prompts.compiler import PromptCompiler, PromptFormat
from brew_data.prompts.suite import TaskSuite
from brew_data.prompts.tokenizer import Tokenizer
from brew_platform.config import load_config
from brew_platform.errors import UserError
from brew_platform.files import replace_atomically
from brew_serve.engines.config import EngineConfig
from brew_serve.engines.rope_scaling import context_of

__all__ = ["LoadedVersion", "load_version", "write_suite_files"]


@dataclass(frozen=True, kw_only=True)
class LoadedVersion:
    """A version folder, ready to compile prompts; `engine` is how to run its model."""

    folder: Path
    suite: TaskSuite
    compiler: PromptCompiler
    engine: EngineConfig


def write_suite_files(folder: Path, suite: TaskSuite, format: PromptFormat) -> None:
    """Adds `suite.json` and `prompt_format.json` to a folder that holds a model."""
    replace_atomically(folder / "suite.json", json.dumps(suite.to_dict(), indent=1, ensure_ascii=False))
    replace_atomically(folder / "prompt_format.json", json.dumps(asdict(format), indent=1))


def load_version(folder: Path, engine: EngineConfig | None = None) -> LoadedVersion:
    """Loads everything but the weights, and checks that its parts fit together.

    Args:
        folder: see the head of this file.
        engine: settings to run the model with; `max_model_len` becomes the version's context length where it is None.
            With `rope`, prompts may take as much as the model then reads: that is what it is for.

    Raises:
        UserError: a file is missing or malformed, or prompts, tokenizer and model do not fit together.
    """
    suite = TaskSuite.from_dict(_read(folder / "suite.json"))
    format = load_config(PromptFormat, _read(folder / "prompt_format.json"))
    tokenizer = Tokenizer.load(folder)
    model = {"max_position_embeddings": 0, **_read(folder / "config.json")}
    engine = engine or EngineConfig()
    positions = context_of(model, engine.rope)
    if engine.rope is not None:
        format = replace(format, context_length=engine.max_model_len or positions)
    if positions < format.context_length:
        raise UserError(
            f"{folder}: prompts may take {format.context_length} tokens, but the model was made for {positions}. "
            f"Publish a version whose prompt format fits its model."
        )
    if (vocabulary := model.get("vocab_size", 0)) < tokenizer.vocabulary_size:
        raise UserError(
            f"{folder}: the tokenizer has {tokenizer.vocabulary_size} ids, but the model knows {vocabulary}. Publish "
            f"the model with the tokenizer it was trained with."
        )
    return LoadedVersion(
        folder=folder,
        suite=suite,
        compiler=PromptCompiler(suite, tokenizer, format),
        engine=replace(engine, max_model_len=engine.max_model_len or format.context_length),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(
            f"{path} does not exist: a served version needs config.json, tokenizer.json, suite.json and "
            f"prompt_format.json. Write the last two with write_suite_files."
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}). Publish the version again.") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} is not a JSON object. Publish the version again.")
    return data
