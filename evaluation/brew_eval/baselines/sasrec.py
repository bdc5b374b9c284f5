"""SASRec: a small causal transformer over the entities of a member's history.

Shape suffixes: S sequences, L positions of a sequence, B queries of a batch, H hidden units.
"""

import torch
from torch import Tensor, nn

from brew_eval.baselines.sequential import (
    SequenceInputs,
    SequenceNetwork,
    SequentialBaseline,
    SequentialSettings,
    embedding,
)

__all__ = ["SasRec"]


class SasRec(SequentialBaseline):
    """Self-attentive sequential recommendation (Kang, McAuley 2018) with labels (`SequentialBaseline`).

    The embeddings of entity, reaction and position are added. The score of a candidate is the inner product of its
    embedding and the state after the last visible interaction, plus a bias of the entity.
    """

    name = "sasrec"

    def network(self, entities: int, levels: int) -> SequenceNetwork:
        """Create a network (`SequentialBaseline`)."""
        return _Network(self.settings, entities, levels)


class _Network(SequenceNetwork):
    def __init__(self, settings: SequentialSettings, entities: int, levels: int) -> None:
        super().__init__(settings, entities, levels)
        self.position = embedding(settings.length + 1, settings.hidden)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                settings.hidden,
                settings.heads,
                settings.hidden * 4,
                settings.dropout,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(settings.layers)
        )
        self.norm = nn.LayerNorm(settings.hidden)
        self.out = nn.Linear(settings.hidden, 1)

    def forward(self, inputs: SequenceInputs) -> Tensor:
        length = inputs.entity_SL.shape[1]
        hidden_SLH = self.dropout(self.embed(inputs) + self.position(torch.arange(length)))
        mask_LL = nn.Transformer.generate_square_subsequent_mask(length)
        for layer in self.layers:
            hidden_SLH = layer(hidden_SLH, src_mask=mask_LL, is_causal=True)
        state_BH = self.norm(hidden_SLH).flatten(0, 1)[inputs.place_B]
        match_B = (state_BH * self.dropout(self.entity(inputs.candidate_B))).sum(dim=1)
        return match_B + self.out(state_BH)[:, 0] + self.bias[inputs.candidate_B]
