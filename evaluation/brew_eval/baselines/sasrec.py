"""SASRec: a small causal transformer over the entities of a member's history.

Shape suffixes: N interactions, Q queries, S sequences, L positions of a sequence, H hidden units.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from brew_eval.baselines.interactions import Array, Queries, TaskInteractions
from brew_platform.metrics import logloss
from brew_platform.settings import PositiveFloat, PositiveInt, Range, Settings

__all__ = ["SasRec", "SasRecSettings"]


@dataclass(frozen=True, kw_only=True)
class SasRecSettings(Settings):
    """The settings of SASRec."""

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


class SasRec:
    """Self-attentive sequential recommendation (Kang, McAuley 2018) with labels (`Baseline`).

    An element of a member's sequence is an entity and the reaction to it: both embeddings and that of the position are
    added. The score of a candidate is the inner product of its embedding and the state after the last interaction that
    is strictly earlier, plus a bias of the entity. The loss is the binary cross-entropy of all recorded reactions;
    sampled negatives, which the paper needs for data without negative reactions, are not used. The weights that score
    are an exponential average over the steps. The number of epochs is chosen on the last fifth of the training rows;
    then all rows are fitted.
    """

    name = "sasrec"

    def __init__(self, settings: SasRecSettings | None = None) -> None:
        self.settings = settings or SasRecSettings()

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
            logit = network(*self._tensors(rows, part), torch.from_numpy(queries.entity_Q[part.query_B]))
            score_Q[part.query_B] = torch.sigmoid(logit).double().numpy()
        return score_Q

    def _epochs(self, train: TaskInteractions) -> Iterator[None]:
        """Create a network and train it; yields after each epoch."""
        settings = self.settings
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            network = _Network(settings, len(train.type_E), len(self._levels))
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
                    candidates = torch.from_numpy(queries.entity_Q[part.query_B])
                    logit = network(*self._tensors(train, part), candidates)
                    loss = functional.binary_cross_entropy_with_logits(logit, label_N[part.query_B].float())
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                    optimizer.step()
                    self._average.update_parameters(network)
                state = torch.get_rng_state()
            yield

    def _tensors(self, rows: TaskInteractions, part: "_Batch") -> tuple[Tensor, Tensor, Tensor]:
        """Return the entities and reactions of sequences (0: start or padding), and the positions of the queries."""
        row_SL = part.row_SL
        level_N = np.minimum(np.searchsorted(self._levels, rows.value_N), len(self._levels) - 1)
        entity_SL = np.where(row_SL >= 0, rows.entity_N[row_SL] + 1, 0)
        level_SL = np.where(row_SL >= 0, level_N[row_SL] + 1, 0)
        return torch.from_numpy(entity_SL), torch.from_numpy(level_SL), torch.from_numpy(part.place_B)


class _Network(nn.Module):
    def __init__(self, settings: SasRecSettings, entities: int, levels: int) -> None:
        super().__init__()
        self.entity = nn.Embedding(entities, settings.hidden)
        self.level = nn.Embedding(levels + 1, settings.hidden)  # 0: the start
        self.position = nn.Embedding(settings.length + 1, settings.hidden)
        self.bias = nn.Embedding(entities, 1)
        layer = nn.TransformerEncoderLayer(
            settings.hidden,
            settings.heads,
            settings.hidden * 4,
            settings.dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.ModuleList([layer, *(_fresh(layer) for _ in range(settings.layers - 1))])
        self.norm = nn.LayerNorm(settings.hidden)
        self.out = nn.Linear(settings.hidden, 1)
        self.dropout = nn.Dropout(settings.dropout)
        for table in (self.entity, self.level, self.position):
            nn.init.normal_(table.weight, std=0.05)
        nn.init.zeros_(self.bias.weight)

    def forward(self, entity_SL: Tensor, level_SL: Tensor, place_B: Tensor, candidate_B: Tensor) -> Tensor:
        """Return the logits of candidates; `place_B` are positions in the flattened sequences."""
        length = entity_SL.shape[1]
        entity_SLH = self.entity((entity_SL - 1).clamp(min=0)) * (entity_SL > 0)[:, :, None]
        hidden_SLH = self.dropout(entity_SLH + self.level(level_SL) + self.position(torch.arange(length)))
        mask_LL = nn.Transformer.generate_square_subsequent_mask(length)
        for layer in self.layers:
            hidden_SLH = layer(hidden_SLH, src_mask=mask_LL, is_causal=True)
        state_BH = self.norm(hidden_SLH).flatten(0, 1)[place_B]
        match_B = (state_BH * self.dropout(self.entity(candidate_B))).sum(dim=1)
        return match_B + self.out(state_BH)[:, 0] + self.bias(candidate_B)[:, 0]


def _fresh(layer: nn.TransformerEncoderLayer) -> nn.TransformerEncoderLayer:
    """Return a layer of the same sizes with weights of its own."""
    return nn.TransformerEncoderLayer(
        layer.linear1.in_features,
        layer.self_attn.num_heads,
        layer.linear1.out_features,
        layer.dropout.p,
        activation="gelu",
        batch_first=True,
        norm_first=True,
    )


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
    ones and, if there are that many, at least length / 2 of them.

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
