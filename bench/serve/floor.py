"""Measures a lower bound of the latency: one PyTorch pass over all candidates of a request, without a server."""

from pathlib import Path

import torch
from bench.serve.workload import Request
from transformers import AutoModelForCausalLM

__all__ = ["SinglePassScorer"]


class SinglePassScorer:
    """Scores with the transformers model in float32; the prefix and all candidates are one sequence.

    A dense mask lets every candidate attend to the prefix and to itself, so nothing is computed twice.

    Args:
        folder: The folder of a model version.
    """

    def __init__(self, folder: Path) -> None:
        self._lm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()

    @torch.inference_mode()
    def score(self, request: Request) -> list[float]:
        """Return the probability of the first label among all labels for each candidate, as all contenders do."""
        lengths = [len(request.prefix), *map(len, request.questions)]
        shared = lengths[0]
        part = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
        places = torch.cat([torch.arange(shared), *(torch.arange(shared, shared + length) for length in lengths[1:])])
        seen = (part[:, None] == part[None, :]) | (part[None, :] == 0)
        seen &= places[None, :] <= places[:, None]
        mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
        ids = torch.tensor([*request.prefix, *(id_ for question in request.questions for id_ in question)])
        out = self._lm.model(
            input_ids=ids[None], position_ids=places[None], attention_mask=mask[None, None], use_cache=False
        )
        ends = torch.tensor(lengths).cumsum(0)[1:] - 1
        logits = self._lm.lm_head(out.last_hidden_state[0, ends])[:, request.labels]
        return [float(p) for p in logits.double().softmax(-1)[:, 0]]
