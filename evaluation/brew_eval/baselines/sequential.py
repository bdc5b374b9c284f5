"""What sequential baselines share: the sequences of members' histories, the training loop, and the embeddings.

Shape suffixes: N interactions, Q queries, S sequences, L positions of a sequence, B queries of a batch, H hidden units,
E entities.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from brew_eval.baselines.interactions import Array, Queries, TaskInteractions
from brew_platform.errors import ConfigError
from brew_platform.metrics import logloss
from brew_platform.settings import PositiveFloat, PositiveInt, Range, Settings

__all__ = ["SequenceInputs", "SequenceNetwork", "SequentialBaseline", "SequentialSettings", "embedding"]


@dataclass(frozen=True, kw_only=True)
class SequentialSettings(Settings):
    """The settings of a sequential baseline.

    Raises:
        ConfigError: The hidden units can't be divided among the heads.
    """

    hidden: PositiveInt = 64
    heads: PositiveInt = 2
    layers: PositiveInt = 2
    dropout: Annotated[float, Range(ge=0, lt=1)] = 0.3
    length: Annotated[int, Range(ge=2, le=65_536)] = 256  # interactions that a prediction sees: at least half of it
    learning_rate: PositiveFloat = 1e-3
    weight_decay: Annotated[float, Range(ge=0)] = 0.05
    sequences: PositiveInt = 16  # per step
    most_epochs: PositiveInt = 60
    averaging: Annotated[float, Range(ge=0, lt=1)] = 0.98  # decay, per step, of the average of weights that scores
    patience: PositiveInt = 2  # epochs without a smaller logloss on the validation rows before fitting stops
    seed: Annotated[int, Range(ge=0)] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden % self.heads:
            raise ConfigError(
                f"{self.hidden} hidden units can't be divided among {self.heads} heads. Set hidden to a multiple of "
                f"heads."
            )


class SequenceInputs(NamedTuple):
    """Sequences of interactions, and the candidates that they answer.

    The first position of a sequence is its start, which is not an interaction.
    """

    entity_SL: Tensor  # int64, 1 + the position of the entity; 0: the start, or padding at the end
    level_SL: Tensor  # int64, 1 + the code of the reaction; 0: the start, or padding at the end
    time_SL: Tensor  # int64 microseconds since 1970, UTC; 0: the start, or padding at the end
    place_B: Tensor  # int64, the position in the flattened sequences of a candidate's last visible interaction
    candidate_B: Tensor  # int64, the entity; the candidates of a sequence are contiguous, and sequences are in order
    before_B: Tensor  # int64 microseconds since 1970, UTC: the time of the candidate


class SequenceNetwork(nn.Module, ABC):
    """The embeddings of interactions, and the biases of entities; a subclass turns them into logits.

    Args:
        settings: Sizes.
        entities: Number of entities.
        levels: Number of different reactions.
    """

    def __init__(self, settings: SequentialSettings, entities: int, levels: int) -> None:
        super().__init__()
        self.entity = embedding(entities, settings.hidden)
        self.level = embedding(levels + 1, settings.hidden)  # 0: the start
        self.bias = nn.Parameter(torch.zeros(entities))
        self.dropout = nn.Dropout(settings.dropout)

    def embed(self, inputs: SequenceInputs) -> Tensor:
        """Return the sum of the embeddings of entity and reaction, float32, shape (S, L, H)."""
        entity_SLH = self.entity((inputs.entity_SL - 1).clamp(min=0)) * (inputs.entity_SL > 0)[:, :, None]
        return entity_SLH + self.level(inputs.level_SL)

    @abstractmethod
    def forward(self, inputs: SequenceInputs) -> Tensor:
        """Return the logits of the candidates, float32, shape (B,).

        A logit depends on the interactions up to the candidate's place, on its entity and on its time.
        """


def embedding(count: int, hidden: int) -> nn.Embedding:
    """Return a table of embeddings with small random weights."""
    table = nn.Embedding(count, hidden)
    nn.init.normal_(table.weight, std=0.05)
    return table


class SequentialBaseline(ABC):
    """A network over the entities and reactions of a member's history (`Baseline`).

    An element of a member's sequence is an entity and the reaction to it. A candidate is scored after the last
    interaction that is strictly earlier. The loss is the binary cross-entropy of all recorded reactions; sampled
    negatives, which data without negative reactions need, are not used. The weights that score are an exponential
    average over the steps. The number of epochs is chosen on the last fifth of the training rows; then all rows are
    fitted.
    """

    name: str

    def __init__(self, settings: SequentialSettings | None = None) -> None:
        self.settings = settings or SequentialSettings()

    @abstractmethod
    def network(self, entities: int, levels: int) -> SequenceNetwork:
        """Create a network with random weights."""

    def fit(self, rows: TaskInteractions, cut: int) -> None:
        """Choose the number of epochs, then fit all rows before the cut (`Baseline`)."""
        train, earlier = rows.until(cut), rows.validation_cut(cut)
        self._levels = np.unique(train.value_N)
        held = train.between(earlier, cut)
        self.epochs, best = 1, np.inf
        for epoch, _ in enumerate(self._epochs(train.until(earlier)), start=1):
            if not len(held):
                break
            loss = logloss(held.label_N, self.score(train, held.streaming()))
            if loss < best:
                best, self.epochs = loss, epoch
            elif epoch - self.epochs >= self.settings.patience:
                break
        for epoch, _ in enumerate(self._epochs(train), start=1):
            if epoch == self.epochs:
                break

    @torch.no_grad()
    def score(self, rows: TaskInteractions, queries: Queries) -> Array:
        """Score as in `Baseline`."""
        network = self._average.eval()
        score_Q = np.zeros(len(queries))
        for part in _batches(rows, queries, self.settings.length, size=32, order=None):
            logit = network(self._inputs(rows, queries, part))
            score_Q[part.query_B] = torch.sigmoid(logit).double().numpy()
        return score_Q

    def _epochs(self, train: TaskInteractions) -> Iterator[None]:
        """Create a network and train it; yields after each epoch."""
        settings = self.settings
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            network = self.network(len(train.type_E), len(self._levels))
            state = torch.get_rng_state()
        seen_E = np.bincount(train.entity_N, minlength=len(train.type_E)) > 0
        with torch.no_grad():  # an entity that is never fitted adds nothing, instead of noise
            network.entity.weight[torch.from_numpy(~seen_E)] = 0
        average = get_ema_multi_avg_fn(settings.averaging)  # type: ignore[no-untyped-call]
        self._average = AveragedModel(network, multi_avg_fn=average)
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        rng, queries, label_N = np.random.default_rng(settings.seed), train.streaming(), torch.from_numpy(train.label_N)
        for _ in range(settings.most_epochs):
            with torch.random.fork_rng(devices=[]):
                torch.set_rng_state(state)
                network.train()
                for part in _batches(train, queries, settings.length, size=settings.sequences, order=rng):
                    logit = network(self._inputs(train, queries, part))
                    loss = functional.binary_cross_entropy_with_logits(logit, label_N[part.query_B].float())
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                    optimizer.step()
                    self._average.update_parameters(network)
                state = torch.get_rng_state()
            yield

    def _inputs(self, rows: TaskInteractions, queries: Queries, part: "_Batch") -> SequenceInputs:
        row_SL, query_B = part.row_SL, part.query_B
        level_N = np.minimum(np.searchsorted(self._levels, rows.value_N), len(self._levels) - 1)
        arrays = (
            np.where(row_SL >= 0, rows.entity_N[row_SL] + 1, 0),
            np.where(row_SL >= 0, level_N[row_SL] + 1, 0),
            np.where(row_SL >= 0, rows.time_N[row_SL], 0),
            part.place_B,
            queries.entity_Q[query_B],
            queries.before_Q[query_B],
        )
        return SequenceInputs(*map(torch.from_numpy, arrays))


class _Batch(NamedTuple):
    row_SL: Array  # positions in the rows; -1: the start of a sequence, or padding at its end
    query_B: Array  # positions in the queries that these sequences answer
    place_B: Array  # by query: the position, in the flattened sequences, after its last visible interaction


def _batches(
    rows: TaskInteractions, queries: Queries, length: int, *, size: int, order: np.random.Generator | None
) -> Iterator[_Batch]:
    """Cut histories into sequences that overlap by half, and group them.

    A sequence has a start and at most `length` interactions. Sequence number w of a member begins at interaction
    w * length / 2. A query with n visible interactions is answered by the first sequence that has all of the newest
    ones and, if there are that many, at least length / 2 of them. More than 2 * length queries of a sequence, as of a
    large slate, are answered by copies of it, which bounds the memory.

    Args:
        rows: The history.
        queries: The candidates.
        length: The most interactions of a sequence.
        size: Sequences of a batch.
        order: Shuffles the sequences; None: sorts them by length, so that little is padded. (Sorted batches in training
            would give short histories more weight.)
    """
    half = length // 2
    order_N = np.lexsort((rows.time_N, rows.member_N))
    known_Q, begin_Q = _visible(rows.member_N[order_N], rows.time_N[order_N], queries)
    window_Q = np.maximum(0, -(-(known_Q - length) // half))
    code_Q = queries.member_Q * (int(window_Q.max(initial=0)) + 1) + window_Q
    sorted_Q = np.argsort(code_Q, kind="stable")
    groups = np.split(sorted_Q, np.flatnonzero(np.diff(code_Q[sorted_Q])) + 1) if len(sorted_Q) else []
    groups = [part for group in groups for part in np.split(group, range(2 * length, len(group), 2 * length))]
    lengths = np.array([int((known_Q[g] - window_Q[g] * half).max()) for g in groups])
    place = np.argsort(lengths, kind="stable") if order is None else order.permutation(len(groups))
    for start in range(0, len(place), size):
        yield _batch([groups[g] for g in place[start : start + size]], order_N, known_Q, begin_Q, window_Q * half)


def _batch(groups: Sequence[Array], order_N: Array, known_Q: Array, begin_Q: Array, skipped_Q: Array) -> _Batch:
    longest = max(int((known_Q[g] - skipped_Q[g]).max()) for g in groups)
    row_SL = np.full((len(groups), longest + 1), -1, dtype=np.int64)
    places = []
    for index, group in enumerate(groups):
        first, skipped = group[0], skipped_Q[group[0]]
        count = int((known_Q[group] - skipped).max())
        begin = begin_Q[first] + skipped
        row_SL[index, 1 : count + 1] = order_N[begin : begin + count]
        places.append(index * (longest + 1) + known_Q[group] - skipped)
    return _Batch(row_SL, np.concatenate(groups), np.concatenate(places))


def _visible(member_N: Array, time_N: Array, queries: Queries) -> tuple[Array, Array]:
    """Return how many interactions each query may see, and where its member's interactions begin."""
    instant_T = np.unique(time_N)
    code_N = member_N * (len(instant_T) + 1) + np.searchsorted(instant_T, time_N)
    begin_Q = np.searchsorted(member_N, queries.member_Q, side="left")
    code_Q = queries.member_Q * (len(instant_T) + 1) + np.searchsorted(instant_T, queries.before_Q)
    return np.searchsorted(code_N, code_Q, side="left") - begin_Q, begin_Q
