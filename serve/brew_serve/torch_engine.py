"""The reference engine: one plain forward of a Hugging Face model in fp32, without Ray and without vLLM.

What it answers defines what every other engine must answer. It computes each prompt from its first token and one at a
time, so it is for tests and for machines without vLLM, not for traffic.
"""

from collections.abc import Sequence
from pathlib import Path

from brew_platform.errors import UserError
from brew_serve.engine import check_request

__all__ = ["TorchEngine"]


class TorchEngine:
    """An `Engine` on transformers.

    Args:
        model_folder: Hugging Face files: config.json and safetensors.

    Raises:
        UserError: the folder holds no model that transformers can load.
    """

    def __init__(self, model_folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        if not (model_folder / "config.json").is_file():
            raise UserError(
                f"{model_folder} holds no model (config.json is missing): pass a folder that save_pretrained wrote."
            )
        try:
            model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32, local_files_only=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(f"{model_folder} cannot be loaded as a model ({error}). Export it again.") from error
        self._torch, self._model = torch, model.eval()

    async def next_token_logprobs(self, prompt: Sequence[int], token_ids: Sequence[int]) -> list[float]:
        config = self._model.config
        check_request(
            prompt,
            token_ids,
            context_length=config.max_position_embeddings,
            vocabulary_size=config.vocab_size,
        )
        with self._torch.inference_mode():
            logits = self._model(self._torch.tensor([list(prompt)]), use_cache=False, logits_to_keep=1).logits[0, -1]
            logprobs: list[float] = logits.float().log_softmax(-1)[list(token_ids)].tolist()
        return logprobs

    def check(self) -> None:
        """Always well."""

    def close(self) -> None:
        """Nothing to end: the model goes with this object."""
