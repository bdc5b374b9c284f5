"""Creates the requests and random models of the serving benchmark. Each request is for a new member.

Workload R (text ranking): a history of 600 tokens on average, 100 candidates of 24 tokens. Workload S (SGLang's): 120
tokens of history, 10 candidates of 180. Words are drawn by Zipf's law from the synthetic vocabulary, because with
repeated tokens every prefix cache would always hit.
"""

import itertools
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench.words import draw_words, vocabulary
from transformers import MixtralConfig, MixtralForCausalLM
from transformers.utils import logging

from brew_data.prompts.bundle import PromptBundle
from brew_data.prompts.compiler import Entity, PromptFormat
from brew_data.prompts.tasks import TaskSpec
from brew_data.prompts.tokenizer import train_tokenizer
from brew_serve.schemas.rank import RankRequest
from brew_serve.version import LoadedVersion

__all__ = ["WORKLOADS", "Request", "RequestMaker", "Sizes", "write_random_version"]

# 28 million parameters: 8 layers of width 256 with 4 experts of width 1,024
MODEL = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}
CONTEXT, VOCABULARY = 2048, 4096
SEED = 360
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes of a workload."""

    history: int  # mean number of tokens; uniform from half to one and a half times that
    candidates: int  # number of candidates
    candidate: int  # tokens of each candidate: question, entity and the control token before the answer


WORKLOADS = {
    "R": Sizes(history=600, candidates=100, candidate=24),
    "S": Sizes(history=120, candidates=10, candidate=180),
}


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request as JSON text for our service, and as token ids for other engines."""

    rank: bytes  # body of POST /v1/rank
    scoring: bytes  # body of POST /generative_scoring
    prefix: tuple[int, ...]
    questions: list[tuple[int, ...]]
    labels: list[int]  # one token per label; the first is of a positive action
    action: str  # action of the first label; every contender returns its probability


class RequestMaker:
    """Makes random requests, each with its own member and candidates. Equal arguments give equal requests.

    Args:
        version: The model version that compiles the prompts. It drops history that exceeds its context, as usual.
        sizes: The sizes of the workload.
    """

    def __init__(self, version: LoadedVersion, sizes: Sizes) -> None:
        self.suite, self.compiler, self.sizes = version.suite, version.compiler, sizes
        self._words = vocabulary()
        self._random = np.random.default_rng(SEED)
        self.task: TaskSpec = next(
            task for task in self.suite.tasks if all(len(ids) == 1 for ids in self.compiler.labels(task).values())
        )
        self.surface = self.suite.surface(self.task.surface)

    def make(self, count: int) -> list[Request]:
        """Return the next `count` requests."""
        return [self._request() for _ in range(count)]

    def _request(self) -> Request:
        task, compiler, sizes = self.task, self.compiler, self.sizes
        profile = self._fields(self.suite.profile.fields)
        history = self._history(profile, int(self._random.integers(sizes.history // 2, sizes.history * 3 // 2 + 1)))
        candidates = [{"id": f"c{i}", "fields": self._candidate(profile)} for i in range(sizes.candidates)]
        body = {"task": task.name, "member": {"profile": profile, "history": history}, "candidates": candidates}
        parsed = RankRequest.model_validate_json(json.dumps(body))
        assert parsed.member is not None
        prefix = compiler.prefix(task, profile, [item.past() for item in parsed.member.history]).ids
        questions = [self._question(profile, candidate["fields"]) for candidate in candidates]
        labels = {name: ids[0] for name, ids in compiler.labels(task).items()}
        ordered = sorted(labels, key=lambda name: name not in task.positive)
        scoring = {"query": prefix, "items": questions, "label_token_ids": [labels[name] for name in ordered]}
        return Request(
            rank=json.dumps(body).encode(),
            scoring=json.dumps(scoring).encode(),
            prefix=prefix,
            questions=questions,
            labels=[labels[name] for name in ordered],
            action=ordered[0],
        )

    def _history(self, profile: dict[str, str], tokens: int) -> list[dict[str, Any]]:
        past: list[dict[str, Any]] = []
        while tokens > 0:
            fields = self._fields(self.suite.entities[self.surface.entity_type].fields)
            past.append(
                {
                    "entity_type": self.surface.entity_type,
                    "fields": fields,
                    "surface": self.surface.name,
                    "action": str(self._random.choice([action.name for action in self.surface.actions])),
                    "timestamp": (START + timedelta(hours=len(past))).isoformat(),
                }
            )
            tokens -= len(self._question(profile, fields)) + 1  # and its label
        return past

    def _candidate(self, profile: dict[str, str]) -> dict[str, str]:
        """Return fields whose question has the target length, or the smallest length above it."""
        fields = self._fields(self.suite.entities[self.surface.entity_type].fields)
        names = itertools.cycle(fields)  # words are spread over all fields, because the service limits their length
        target = min(self.sizes.candidate, self.compiler.format.question_tokens)  # longer questions are cut
        while len(self._question(profile, fields)) < target:
            fields[next(names)] += " " + draw_words(self._words, self._random, 1)[0]
        return fields

    def _question(self, profile: dict[str, str], fields: dict[str, str]) -> tuple[int, ...]:
        entity = Entity(entity_type=self.surface.entity_type, fields=fields)
        return self.compiler.question(self.task, profile, entity)[0]

    def _fields(self, names: list[str]) -> dict[str, str]:
        return {name: draw_words(self._words, self._random, 1)[0] for name in names}


def write_random_version(folder: Path, like: LoadedVersion) -> int:
    """Write a version folder with random weights.

    Args:
        folder: The folder to create.
        like: The version whose tasks the new one gets.

    Returns:
        The number of parameters.
    """
    folder.mkdir(parents=True)
    random = np.random.default_rng(SEED)
    texts = (" ".join(draw_words(vocabulary(), random, 400)) for _ in range(300))
    # A line each, as answers are encoded: RequestMaker needs a task whose labels are single tokens
    labels = "\n".join(outcome.label for task in like.suite.tasks for outcome in like.suite.outcomes(task))
    tokenizer = train_tokenizer([*texts, *[labels] * 300], vocabulary_size=VOCABULARY)
    torch.manual_seed(SEED)
    lm = MixtralForCausalLM(
        MixtralConfig(
            **MODEL,
            vocab_size=tokenizer.vocabulary_size,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=None,
        )
    )
    logging.disable_progress_bar()
    lm.save_pretrained(folder)
    logging.enable_progress_bar()
    prompts = PromptFormat(context_length=CONTEXT, question_tokens=256)
    PromptBundle(suite=like.suite, format=prompts, tokenizer=tokenizer).save(folder)
    return sum(parameter.numel() for parameter in lm.parameters())
