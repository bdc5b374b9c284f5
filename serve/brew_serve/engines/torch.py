"""The reference engine: a plain fp32 forward pass of a Hugging Face model, without Ray and vLLM.

Every other engine must agree with its results. It computes one prompt at a time, without a cache; use it for tests and
on machines without vLLM.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from brew_platform.errors import UserError
from brew_serve.engines.base import EngineUsage, GeneratedToken, Sampling, Shared, check_generation, check_request
from brew_serve.engines.config import EngineConfig
from brew_serve.engines.logprobs import require_logprobs
from brew_serve.engines.model_check import require_model
from brew_serve.engines.rope_scaling import rope_overrides

__all__ = ["TorchEngine"]

T = TypeVar("T")


class TorchEngine:
    """An `Engine` on transformers.

    Args:
        model_folder: Hugging Face files: config.json and safetensors.
        config: Settings; this engine uses `max_model_len` and `rope` only.

    Raises:
        UserError: transformers cannot load a model from the folder, or the rotary embedding cannot be scaled.
    """

    def __init__(self, model_folder: Path, config: EngineConfig | None = None) -> None:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        require_model(model_folder)
        try:
            settings = AutoConfig.from_pretrained(model_folder, local_files_only=True)
            for name, value in rope_overrides(settings.to_dict(), config.rope if config else None).items():
                setattr(settings, name, value)
            model, loading = AutoModelForCausalLM.from_pretrained(
                model_folder, config=settings, dtype=torch.float32, local_files_only=True, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(f"{model_folder} cannot be loaded as a model ({error}). Export it again.") from error
        if missing := sorted(loading["missing_keys"]):  # transformers draws these at random
            raise UserError(f"{model_folder} has no weights for {missing[0]}. Export the model again.")
        self._torch, self._model = torch, model.eval()
        self._context = (config.max_model_len if config else None) or model.config.max_position_embeddings
        self._worker = ThreadPoolExecutor(1, "torch-engine")  # one call at a time, outside the event loop
        self.usage = EngineUsage()

    async def next_token_logprobs(
        self, prompt: Sequence[int], token_ids: Sequence[int], shared: Shared | None = None
    ) -> list[float]:
        check_request(prompt, token_ids, **self._sizes())
        logprobs = await self._run(lambda: self._next(prompt)[list(token_ids)].tolist())
        self.usage = self.usage.plus(prompt_tokens=len(prompt))
        return logprobs

    async def stream(self, prompt: Sequence[int], sampling: Sampling) -> AsyncGenerator[GeneratedToken, None]:
        check_generation(prompt, sampling, **self._sizes())
        generator = self._torch.Generator()
        if sampling.seed is None:
            generator.seed()
        else:
            generator.manual_seed(sampling.seed)
        self.usage = self.usage.plus(prompt_tokens=len(prompt))
        ids = list(prompt)
        for _ in range(sampling.max_tokens):
            scores = await self._run(lambda: self._next(ids))
            require_logprobs([float(scores.max())])  # nothing can be drawn from NaN
            id_ = self._sample(scores, sampling, generator)
            if id_ in sampling.stop_ids:
                return
            ids.append(id_)
            values, tokens = scores.topk(sampling.top_logprobs)
            top = dict(zip(tokens.tolist(), values.tolist(), strict=True))
            yield GeneratedToken(id=id_, logprob=float(scores[id_]), top=top)

    def check(self) -> None:
        """Do nothing: a model in this process cannot fail by itself."""

    def close(self) -> None:
        """Stop the worker thread. The model is freed with this object."""
        self._worker.shutdown(cancel_futures=True)

    async def _run(self, compute: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, compute)

    def _next(self, prompt: Sequence[int]) -> Any:
        """Return the log-probabilities of the next token, float32 [vocabulary]."""
        with self._torch.inference_mode():
            logits = self._model(self._torch.tensor([list(prompt)]), use_cache=False, logits_to_keep=1).logits[0, -1]
            return logits.float().log_softmax(-1)

    def _sample(self, logprobs: Any, sampling: Sampling, generator: Any) -> int:
        if sampling.temperature == 0:
            return int(logprobs.argmax())
        probabilities, tokens = (logprobs / sampling.temperature).softmax(-1).sort(descending=True)
        before = probabilities.cumsum(-1) - probabilities
        kept = probabilities.where(before < sampling.top_p, 0.0)
        kept[0] = probabilities[0]  # a top_p that rounds to 0 in float32 would remove all tokens
        return int(tokens[self._torch.multinomial(kept, 1, generator=generator)])

    def _sizes(self) -> dict[str, int]:
        return {"context_length": self._context, "vocabulary_size": self._model.config.vocab_size}
