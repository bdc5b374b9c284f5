"""The part of a response that online and nearline rankings share: ranked items, calibration, usage, truncation."""

from typing import TypedDict

from brew_data.prompts.tasks import TaskSpec
from brew_platform.calibration_map import CalibrationMap
from brew_serve.ranking.calibration import calibrate
from brew_serve.ranking.scoring import Ranking
from brew_serve.schemas.rank import RankedItem, Truncated, Usage

__all__ = ["RankingFields", "ranking_fields"]


class RankingFields(TypedDict):
    """Fields of `RankResponse` and of `NearlineRanking`."""

    ranking: list[RankedItem]
    calibrated: bool
    usage: Usage
    truncated: Truncated


def ranking_fields(
    ranking: Ranking, task: TaskSpec, top_k: int | None, calibration: CalibrationMap | None = None
) -> RankingFields:
    """Convert a ranking to the fields of a response.

    Args:
        ranking: Best candidate first, with raw probabilities.
        task: Its task.
        top_k: Number of candidates to return; None returns all. `usage` counts all scored candidates.
        calibration: The map to apply; None leaves the probabilities raw.
    """
    ranked = ranking.candidates[:top_k]
    if calibration is not None:
        ranked = calibrate(ranked, task, calibration)
    # Histories that depend on the candidate can differ: report the one that leaves out most.
    prefix = max(ranking.prefixes, key=lambda prefix: (prefix.turns_dropped, prefix.history_cut.tokens))
    cuts = ranking.candidate_cuts
    return {
        "ranking": [
            RankedItem(id=candidate.id, score=candidate.score, probabilities=candidate.probabilities)
            for candidate in ranked
        ],
        "calibrated": calibration is not None,
        "usage": Usage(prompt_tokens=ranking.prompt_tokens, candidates=len(ranking.candidates)),
        "truncated": Truncated(
            turns_dropped=prefix.turns_dropped,
            head_tokens_dropped=prefix.head_cut.tokens,
            history_tokens_dropped=prefix.history_cut.tokens,
            fields_cut=sum(cut.fields for cut in (prefix.head_cut, prefix.history_cut, *cuts.values())),
            candidates={id_: cut.tokens for id_, cut in cuts.items()},
        ),
    }
