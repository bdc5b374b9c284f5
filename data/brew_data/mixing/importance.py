"""The importance of documents that resemble those of another source.

Source: Xie et al., "Data Selection for Language Models via Importance Resampling" (DSIR), arXiv 2302.03169, section 3:
the ratio of the probabilities of the hashed unigrams and bigrams of a document under the target and under its source.
"""

import numpy as np

from brew_data.split import hash_integers

__all__ = ["BUCKETS", "count_ngrams", "log_importance"]

BUCKETS = 10_000  # as in the paper, section 3.1


def count_ngrams(token_T: np.ndarray, length_D: np.ndarray) -> np.ndarray:
    """Count the hashed unigrams and bigrams of documents, int64, shape (BUCKETS,).

    Args:
        token_T: The token ids of all documents, one after the other.
        length_D: The tokens of each document; their sum is the length of `token_T`.
    """
    bucket_N, _ = _ngrams(token_T, length_D)
    return np.bincount(bucket_N, minlength=BUCKETS)


def log_importance(
    token_T: np.ndarray, length_D: np.ndarray, *, target_B: np.ndarray, source_B: np.ndarray
) -> np.ndarray:
    """Return the logarithm of the importance of each document, float64, shape (D,).

    Args:
        token_T: As for `count_ngrams`.
        length_D: As for `count_ngrams`.
        target_B: The counts of the documents to resemble, from `count_ngrams`.
        source_B: The counts of all documents of the source.
    """
    target, source = (np.log((count_B + 1.0) / (count_B.sum() + BUCKETS)) for count_B in (target_B, source_B))
    bucket_N, document_N = _ngrams(token_T, length_D)
    return np.bincount(document_N, (target - source)[bucket_N], minlength=len(length_D))


def _ngrams(token_T: np.ndarray, length_D: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the bucket and the document of each unigram and bigram, int64."""
    document_T = np.repeat(np.arange(len(length_D)), length_D)
    first_T = token_T.astype(np.uint64) + np.uint64(1)
    is_pair = document_T[1:] == document_T[:-1]
    second = first_T[1:][is_pair]
    key_N = np.concatenate([first_T, (first_T[:-1][is_pair] << np.uint64(32)) + second])
    bucket_N = (hash_integers(key_N) >> np.uint64(32)) % np.uint64(BUCKETS)
    return bucket_N.astype(np.int64), np.concatenate([document_T, document_T[:-1][is_pair]])
