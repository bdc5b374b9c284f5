"""Logistic regression on what the texts of a profile and of an entity have in common.

Shape suffixes: N interactions, Q queries, F features, O owners (members or entities), W words.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from brew_eval.baselines.interactions import Array, Fields, Queries, TaskInteractions

__all__ = ["Matches"]


class Matches:
    """A logistic regression on matches of texts, without any history (`Baseline`).

    For each field of the profile and each field of the entity there is the cosine of their TF-IDF vectors (Salton,
    Buckley 1988) and whether they share a word, and for both their numbers, as signed logarithms. Pairs of fields that
    share no word in the training rows are left out.

    Args:
        strength: Inverse of the ridge penalty.
    """

    name = "matches"

    def __init__(self, strength: float = 0.1) -> None:
        self.strength = strength

    def fit(self, rows: TaskInteractions, cut: int) -> None:
        """Fit the regression (`Baseline`)."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        train = rows.until(cut)
        self._mean = float(train.label_N.mean())
        self._members, self._entities = _Vectors(train.members), _Vectors(train.entities)
        self._align()
        queries = train.streaming()
        self._pairs = [
            (own, other)
            for own in train.members.texts
            for other in train.entities.texts
            if self._shared(own, other, queries).nnz
        ]
        features_NF = self._features(queries)
        self._model: Any = None
        if features_NF.shape[1] and 0 < self._mean < 1:
            self._model = make_pipeline(StandardScaler(), LogisticRegression(C=self.strength, max_iter=1000))
            self._model.fit(features_NF, train.label_N)

    def score(self, rows: TaskInteractions, queries: Queries) -> Array:
        """Score as in `Baseline`. The texts are those of the rows that were fitted."""
        if self._model is None or not len(queries):
            return np.full(len(queries), self._mean)
        return np.asarray(self._model.predict_proba(self._features(queries))[:, 1])

    def _align(self) -> None:
        """Give both sides one vocabulary and its inverse document frequencies."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        vectorizer = TfidfVectorizer()
        texts = [*self._members.everything(), *self._entities.everything()]
        if any(map(vectorizer.build_analyzer(), texts)):  # there is a word
            vectorizer.fit(texts)
            self._members.encode(vectorizer)
            self._entities.encode(vectorizer)

    def _shared(self, own: str, other: str, queries: Queries) -> Any:
        """Return the products of the weights of the words that both texts have, sparse, shape (queries, words)."""
        left_OW, right_OW = self._members.by_field.get(own), self._entities.by_field.get(other)
        if left_OW is None or right_OW is None:
            from scipy.sparse import csr_matrix

            return csr_matrix((len(queries), 1))
        return left_OW[queries.member_Q].multiply(right_OW[queries.entity_Q]).tocsr()

    def _features(self, queries: Queries) -> Array:
        columns = []
        for own, other in self._pairs:
            shared_QW = self._shared(own, other, queries)
            columns += [np.asarray(shared_QW.sum(axis=1)).ravel(), np.diff(shared_QW.indptr) > 0]
        columns += self._members.numbers(queries.member_Q)
        columns += self._entities.numbers(queries.entity_Q)
        return np.stack(columns, axis=1).astype(np.float64) if columns else np.zeros((len(queries), 0))


class _Vectors:
    """The texts of one side as sparse vectors, by field."""

    def __init__(self, fields: Fields) -> None:
        self._fields = fields
        self.by_field: Mapping[str, Any] = {}

    def everything(self) -> Iterator[str]:
        """Yield all texts of each owner as one document."""
        for parts in zip(*self._fields.texts.values(), strict=True):
            yield " ".join(parts)

    def encode(self, vectorizer: Any) -> None:
        self.by_field = {name: vectorizer.transform(texts) for name, texts in self._fields.texts.items()}

    def numbers(self, owner_Q: Array) -> list[Array]:
        found = []
        for number_O in self._fields.numbers.values():
            number_Q = np.nan_to_num(number_O[owner_Q])
            found += [np.sign(number_Q) * np.log1p(np.abs(number_Q)), np.isnan(number_O[owner_Q])]
        return found
