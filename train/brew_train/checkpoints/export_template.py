"""The configs of an export: architecture, dtype of the weights, and settings of generation.

They are fixed when a run starts, and lie in the run's folder `model/`. Every export of the run has the same ones, also
those that are written while it trains.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, GenerationConfig, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from brew_platform.errors import UserError
from brew_platform.files import replace_atomically
from brew_platform.model_folder.weight_files import read_model_config, read_weight_headers

__all__ = ["ExportTemplate"]

CONFIG_FILE, GENERATION_FILE = "config.json", "generation_config.json"
_NOT_OF_THE_MODEL = frozenset({"dtype", "torch_dtype", "transformers_version", "router_aux_loss_coef"})
_STORED = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class ExportTemplate:
    """The configs of an export.

    Args:
        config: of the model; its `dtype` is that of the exported weights.
        generation: content of generation_config.json.
    """

    config: PretrainedConfig
    generation: Mapping[str, Any]

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the exported weights; float32 where the config does not name one."""
        dtype = self.config.dtype or torch.float32
        return dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype)

    @staticmethod
    def of(
        config: PretrainedConfig, *, base: Path | None, dtype: str, end_token_ids: Sequence[int] = ()
    ) -> "ExportTemplate":
        """Returns the template of a model.

        Args:
            config: of the model that trains, `lm.config`.
            base: the folder that it started from; None: from scratch.
            dtype: `TrainConfig.export_dtype`; auto: that of the base, or float32 from scratch.
            end_token_ids: tokens that end an answer. They are added to those of the base, whose other settings of
                generation are kept.

        Raises:
            UserError: generation_config.json of the base cannot be read.
        """
        config = copy.deepcopy(config)
        config.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type]]  # vLLM chooses its model by it
        if dtype == "auto":
            config.dtype = torch.float32 if base is None else _base_dtype(base)
        else:
            config.dtype = getattr(torch, dtype)
        # Older releases of transformers kept the settings of generation in config.json; this one drops them from there.
        model = config if base is None else read_model_config(base)
        generation = _base_generation(base) or GenerationConfig.from_model_config(model).to_diff_dict()
        ends = generation.get("eos_token_id")
        ends = [*(ends if isinstance(ends, list) else [] if ends is None else [ends]), *end_token_ids]
        ends = list(dict.fromkeys(ends))
        if ends:
            generation["eos_token_id"] = ends[0] if len(ends) == 1 else ends
        return ExportTemplate(config=config, generation=generation)

    def write(self, folder: Path) -> None:
        """Writes config.json and generation_config.json."""
        folder.mkdir(parents=True, exist_ok=True)
        self.config.save_pretrained(folder)
        replace_atomically(folder / GENERATION_FILE, json.dumps(dict(self.generation), indent=2, sort_keys=True) + "\n")

    def find_changes(self, folder: Path) -> dict[str, tuple[Any, Any]]:
        """Compares the model with that of an earlier template, without the dtype of exports and the weights of losses.

        Args:
            folder: what `write` wrote when the run started.

        Returns:
            The fields of config.json that differ: earlier and present value by name. Empty without an earlier template.
        """
        path = folder / CONFIG_FILE
        if not path.is_file():
            return {}
        earlier, present = json.loads(path.read_text()), json.loads(self.config.to_json_string())
        names = sorted({*earlier, *present} - _NOT_OF_THE_MODEL)
        return {
            name: (earlier.get(name), present.get(name)) for name in names if earlier.get(name) != present.get(name)
        }

    @staticmethod
    def load(folder: Path) -> "ExportTemplate":
        """Reads what `write` wrote."""
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        generation = _base_generation(folder) or GenerationConfig.from_model_config(config).to_diff_dict()
        return ExportTemplate(config=config, generation=generation)


def _base_dtype(folder: Path) -> torch.dtype:
    """The dtype that config.json names; without one, that of most tensors."""
    model = read_model_config(folder)
    name = model.get("dtype") or model.get("torch_dtype")
    if name in ("float32", "bfloat16", "float16"):
        named: torch.dtype = getattr(torch, name)
        return named
    stored = [tensor.dtype for tensor in read_weight_headers(folder).values()]
    return _STORED.get(max(set(stored), key=stored.count), torch.float32)


def _base_generation(folder: Path | None) -> dict[str, Any]:
    """Content of generation_config.json, less what transformers notes about itself; empty where there is none."""
    path = None if folder is None else folder / GENERATION_FILE
    if path is None or not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise ValueError("it is not a JSON object")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): copy the model again, or remove the file to use transformers' defaults."
        ) from error
    return content
