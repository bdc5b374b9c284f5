"""Version folders: the files that batch scoring and the online service load.

config.json, *.safetensors     the model, in the format of save_pretrained
tokenizer.json, suite.json,    the prompts of its training data (`PromptBundle`)
prompt.json
calibration.json               optional: the calibration map (`CalibrationMap`)
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from brew_data.prompts.bundle import PromptBundle
from brew_data.prompts.compiler import PromptCompiler
from brew_data.prompts.history import HistoryPolicy
from brew_data.prompts.suite import TaskSuite
from brew_platform.calibration_map import CALIBRATION_FILE, CalibrationMap
from brew_platform.errors import UserError
from brew_platform.model_folder.weight_files import read_model_config
from brew_serve.engines.config import EngineConfig
from brew_serve.engines.rope_scaling import context_of

__all__ = ["LoadedVersion", "load_version"]

_REMEDY = "a served version needs the model's config.json and weights; publish an export of training"


@dataclass(frozen=True, kw_only=True)
class LoadedVersion:
    """A version folder that was read and checked, without the weights.

    Args:
        folder: The version folder.
        suite: Its tasks and templates.
        compiler: Compiles prompts for its model.
        engine: Settings to run its model with; `max_model_len` is set.
        ids_without_token: Ids that the model has embeddings for, but the tokenizer has no token: the vocabulary of a
            base model is often padded.
        calibration: Its calibration map; None if it has none.
    """

    folder: Path
    suite: TaskSuite
    compiler: PromptCompiler
    engine: EngineConfig
    ids_without_token: tuple[int, ...] = ()
    calibration: CalibrationMap | None = None


def load_version(
    folder: Path, engine: EngineConfig | None = None, history: Mapping[str, HistoryPolicy] = MappingProxyType({})
) -> LoadedVersion:
    """Load everything but the weights, and check that prompts, tokenizer and model are compatible.

    Args:
        folder: The version folder; the module's docstring lists its files.
        engine: Settings to run the model with. If `max_model_len` is None, it becomes the version's context length.
            With `rope`, the prompt format gets the extended context length.
        history: Policies that replace those of the version, by task.

    Raises:
        UserError: A file is missing or malformed, prompts, tokenizer and model are incompatible, or `history` or the
            calibration map names a task that the version lacks.
        ConfigError: The version cannot apply a policy of `history` (`TaskSuite.check_history`).
    """
    bundle = PromptBundle.load(folder)
    format = bundle.format
    model = {"max_position_embeddings": 0, **read_model_config(folder, remedy=_REMEDY)}
    engine = engine or EngineConfig()
    try:
        positions, vocabulary = context_of(model, engine.rope), int(model.get("vocab_size", 0))
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"{folder}: config.json has no usable sizes ({error}). Publish an export of training."
        ) from error
    if engine.rope is not None:
        format = replace(format, context_length=engine.max_model_len or positions)
    if positions < format.context_length:
        raise UserError(
            f"{folder}: prompts can have {format.context_length} tokens, but the model reads {positions}. "
            f"Publish a version whose prompt format fits its model."
        )
    if vocabulary < bundle.tokenizer.vocabulary_size:
        raise UserError(
            f"{folder}: the tokenizer has {bundle.tokenizer.vocabulary_size} ids, but the model has {vocabulary}. "
            f"Publish the model with the tokenizer of its training."
        )
    return LoadedVersion(
        folder=folder,
        suite=bundle.suite,
        compiler=replace(bundle, format=format).compiler(history),
        engine=replace(engine, max_model_len=engine.max_model_len or format.context_length),
        ids_without_token=tuple(range(bundle.tokenizer.n_tokens, vocabulary)),
        calibration=_read_calibration(folder, bundle.suite),
    )


def _read_calibration(folder: Path, suite: TaskSuite) -> CalibrationMap | None:
    path = folder / CALIBRATION_FILE
    if not path.exists():
        return None
    remedy = "Publish the version again with a map that was fitted for it, or without one."
    try:
        calibration = CalibrationMap.read(path)
    except UserError as error:
        raise UserError(f"{path} is not usable: {error} {remedy}") from error
    if unknown := sorted(calibration.tasks.keys() - {task.name for task in suite.tasks}):
        raise UserError(f"{path} has a map of the task {unknown[0]!r}, which the version lacks. {remedy}")
    return calibration
