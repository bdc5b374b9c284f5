"""LightGBM on counts and means over windows of time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from brew_eval.baselines.interactions import Array, Queries, TaskInteractions
from brew_eval.baselines.time_windows import FeatureTable, window_features
from brew_platform.errors import UserError
from brew_platform.metrics import logloss
from brew_platform.settings import PositiveFloat, PositiveInt, Range, Settings, Share

__all__ = ["BoostedTrees", "BoostedTreesSettings"]


@dataclass(frozen=True, kw_only=True)
class BoostedTreesSettings(Settings):
    """The settings of LightGBM."""

    learning_rate: PositiveFloat = 0.03
    leaves: Annotated[int, Range(ge=2, le=4096)] = 15
    rows_per_leaf: PositiveInt = 100
    feature_share: Share = 0.5  # of the features that each tree reads
    penalty: PositiveFloat = 5.0  # L2, on the values of leaves
    most_trees: PositiveInt = 1000
    patience: PositiveInt = 50  # trees without a smaller logloss on the validation rows before fitting stops
    threads: PositiveInt = 1
    seed: Annotated[int, Range(ge=0)] = 0


class BoostedTrees:
    """Gradient-boosted trees (Ke et al. 2017) on `window_features` (`Baseline`).

    Args:
        grid: Settings; those with the smallest logloss on the last fifth of the training rows are used, with the number
            of trees that had it. None: 7, 15 and 31 leaves.
        threads: Of LightGBM, for the default grid.
    """

    name = "lightgbm"

    def __init__(self, grid: Sequence[BoostedTreesSettings] | None = None, *, threads: int = 1) -> None:
        self._grid = grid or [BoostedTreesSettings(leaves=leaves, threads=threads) for leaves in (7, 15, 31)]

    def fit(self, rows: TaskInteractions, cut: int) -> None:
        """Choose the settings and the number of trees, then fit all rows before the cut (`Baseline`).

        Raises:
            UserError: As in `Baseline`, or LightGBM is not installed.
        """
        train, earlier = rows.until(cut), rows.validation_cut(cut)
        features = window_features(train, train.streaming())
        fit_N = train.time_N <= earlier
        best = np.inf
        for settings in self._grid:
            model = _train(settings, features, train.label_N, fit_N, settings.most_trees, stop=True)
            held_N = ~fit_N if not fit_N.all() else fit_N
            probability_N = np.asarray(model.predict(features.value_QF[held_N], num_threads=settings.threads))
            if (loss := logloss(train.label_N[held_N], probability_N)) < best:
                best, self.settings, self.trees = loss, settings, max(1, model.best_iteration or model.num_trees())
        everything_N = np.ones(len(train), dtype=bool)
        self.model = _train(self.settings, features, train.label_N, everything_N, self.trees, stop=False)

    def score(self, rows: TaskInteractions, queries: Queries) -> Array:
        """Score as in `Baseline`."""
        features = window_features(rows, queries)
        return np.asarray(self.model.predict(features.value_QF, num_threads=self.settings.threads), dtype=np.float64)


def _train(
    settings: BoostedTreesSettings, features: FeatureTable, label_N: Array, fit_N: Array, trees: int, *, stop: bool
) -> Any:
    try:
        import lightgbm
    except ImportError as error:
        raise UserError("LightGBM is not installed. Run `pip install lightgbm`, or leave this baseline out.") from error
    parameters = {
        "objective": "binary",
        "learning_rate": settings.learning_rate,
        "num_leaves": settings.leaves,
        "min_data_in_leaf": min(settings.rows_per_leaf, max(1, int(fit_N.sum()) // 10)),
        "feature_fraction": settings.feature_share,
        "lambda_l2": settings.penalty,
        "num_threads": settings.threads,
        "seed": settings.seed,
        "deterministic": True,
        "force_col_wise": True,
        "verbosity": -1,
    }

    def dataset(keep_N: Array) -> Any:
        return lightgbm.Dataset(
            features.value_QF[keep_N],
            label_N[keep_N].astype(np.float64),
            feature_name=[f"f{index}" for index in range(len(features.names))],  # LightGBM refuses some characters
            categorical_feature=[features.names.index(name) for name in features.categorical],
            free_raw_data=False,
        )

    callbacks, held = [], []
    if stop and not fit_N.all():
        held = [dataset(~fit_N)]
        callbacks = [lightgbm.early_stopping(settings.patience, verbose=False)]
    return lightgbm.train(parameters, dataset(fit_N), trees, valid_sets=held, callbacks=callbacks)
