"""HSTU: pointwise aggregated attention over the interactions of a member's history, and over the candidate.

Shape suffixes: S sequences, L positions of a sequence, C candidates of a sequence, T = L + C tokens, B queries of a
batch, H hidden units, A heads.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from brew_eval.baselines.sequential import SequenceInputs, SequenceNetwork, SequentialBaseline, SequentialSettings

__all__ = ["Hstu"]

SECOND = 1_000_000  # microseconds
BUCKETS = 64  # of time: the first has 1 s, and each is twice as long as the one before
NO_TIME = BUCKETS  # bucket of the start of a sequence


class Hstu(SequentialBaseline):
    """Hierarchical sequential transduction units (Zhai et al. 2024, arXiv 2402.17152) for ranking.

    A layer computes U, V, Q, K = SiLU(linear(norm(X))), then

        A = SiLU(Q K^T + position bias + time bias) / n, and X + linear(norm(A V) * U),

    without softmax and without a feed-forward part (section 3.1). n is the largest number of positions. The biases are
    learned by distance in positions and by bucket of the logarithm of the time in between.

    A candidate is a token of its own (section 2.2: the ranking formulation). It contains the entity and not the
    reaction, and attends to the visible interactions, which contain both. Candidates do not attend to each other, so
    all candidates of a history are scored in one pass (section 3.4: M-FALCON).

    Differences to the paper: an interaction is one token instead of two (entity, reaction); a candidate does not attend
    to itself, but its embedding reaches the output through the residual connection and the gate; no features besides
    entity, reaction and time.
    """

    name = "hstu"

    def network(self, entities: int, levels: int) -> SequenceNetwork:
        """Create a network (`SequentialBaseline`)."""
        return _Network(self.settings, entities, levels)


class _Network(SequenceNetwork):
    def __init__(self, settings: SequentialSettings, entities: int, levels: int) -> None:
        super().__init__(settings, entities, levels)
        self.layers = nn.ModuleList(_Layer(settings) for _ in range(settings.layers))
        self.norm = nn.LayerNorm(settings.hidden)
        self.out = nn.Linear(settings.hidden, 1)

    def forward(self, inputs: SequenceInputs) -> Tensor:
        count, length = inputs.entity_SL.shape
        sequence_B, seen_B = inputs.place_B // length, inputs.place_B % length
        slot_B = torch.arange(len(sequence_B)) - torch.searchsorted(sequence_B, sequence_B)

        def by_sequence(value_B: Tensor) -> Tensor:
            value_SC = value_B.new_zeros(count, int(slot_B.max()) + 1)
            value_SC[sequence_B, slot_B] = value_B
            return value_SC

        position_SL = torch.arange(length).expand(count, length)
        seen_SC = by_sequence(seen_B)
        candidate_SCH = self.entity(by_sequence(inputs.candidate_B))
        hidden_STH = self.dropout(torch.cat([self.embed(inputs), candidate_SCH], dim=1))
        relation = _relate(
            position_ST=torch.cat([position_SL, seen_SC + 1], dim=1),
            seen_ST=torch.cat([position_SL, seen_SC], dim=1),
            time_ST=torch.cat([inputs.time_SL, by_sequence(inputs.before_B)], dim=1),
            length=length,
        )
        for layer in self.layers:
            hidden_STH = layer(hidden_STH, relation)
        state_BH = self.norm(hidden_STH[sequence_B, length + slot_B])
        return self.out(state_BH)[:, 0] + self.bias[inputs.candidate_B]


class _Relation(NamedTuple):
    distance_STL: Tensor  # int64, positions between a token and an interaction; 0 for later interactions
    bucket_STL: Tensor  # int64, of the time in between
    is_seen_STL: Tensor  # bool, whether the token may attend to the interaction


def _relate(*, position_ST: Tensor, seen_ST: Tensor, time_ST: Tensor, length: int) -> _Relation:
    """Relate all tokens to the interactions, which are the first `length` tokens."""
    position_L = torch.arange(length)
    seconds_STL = (time_ST[:, :, None] - time_ST[:, None, :length]).clamp(min=0) / SECOND
    bucket_STL = (1 + seconds_STL).log2().long().clamp(max=BUCKETS - 1)
    bucket_STL[:, :, 0] = NO_TIME
    distance_STL = (position_ST[:, :, None] - position_L).clamp(min=0)
    return _Relation(distance_STL, bucket_STL, position_L <= seen_ST[:, :, None])


class _Layer(nn.Module):
    def __init__(self, settings: SequentialSettings) -> None:
        super().__init__()
        self.heads, self.positions = settings.heads, settings.length + 1
        self.norm = nn.LayerNorm(settings.hidden, eps=1e-6, elementwise_affine=False)
        self.uvqk = nn.Linear(settings.hidden, 4 * settings.hidden)
        self.position_bias = nn.Parameter(torch.zeros(settings.length + 2))
        self.time_bias = nn.Parameter(torch.zeros(BUCKETS + 1))
        self.attended_norm = nn.LayerNorm(settings.hidden, eps=1e-6, elementwise_affine=False)
        self.out = nn.Linear(settings.hidden, settings.hidden)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, hidden_STH: Tensor, relation: _Relation) -> Tensor:
        length = relation.distance_STL.shape[2]
        u_STH, *vqk = functional.silu(self.uvqk(self.norm(hidden_STH))).chunk(4, dim=2)
        v_SATH, q_SATH, k_SATH = (part.reshape(*part.shape[:2], self.heads, -1).transpose(1, 2) for part in vqk)
        bias_STL = self.position_bias[relation.distance_STL] + self.time_bias[relation.bucket_STL]
        match_SATL = q_SATH @ k_SATH[:, :, :length].transpose(2, 3) + bias_STL[:, None]
        weight_SATL = functional.silu(match_SATL) * relation.is_seen_STL[:, None] / self.positions
        attended_STH = (weight_SATL @ v_SATH[:, :, :length]).transpose(1, 2).flatten(2)
        return hidden_STH + self.out(self.dropout(self.attended_norm(attended_STH) * u_STH))
