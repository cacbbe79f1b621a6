"""What a classifier's scores are worth, measured on texts it was not trained on."""

from __future__ import annotations

from typing import Any

import numpy as np

BINS = 10
QUANTILES = (0.0, 0.01, 0.05, *(round(0.1 * i, 1) for i in range(1, 10)), 0.85, 0.95, 0.98, 0.99, 0.995, 0.999, 1.0)


def auc(score: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties half. NaN without both."""
    pos, neg = np.sort(score[positive]), np.sort(score[~positive])
    if not len(pos) or not len(neg):
        return float("nan")
    below, upto = np.searchsorted(neg, pos, "left"), np.searchsorted(neg, pos, "right")
    return float((below + upto).sum() / (2 * len(pos) * len(neg)))


def reliability(p: np.ndarray, happened: np.ndarray) -> list[dict[str, float]]:
    """For each of `BINS` equal bins of the predicted probability that is not empty: mean prediction, share that
    happened, how many."""
    bins = np.minimum((p * BINS).astype(int), BINS - 1)
    out = []
    for b in range(BINS):
        inside = bins == b
        if inside.any():
            means = {"predicted": float(p[inside].mean()), "happened": float(happened[inside].mean())}
            out.append(means | {"n": int(inside.sum())})
    return out


def quantiles(values: np.ndarray) -> dict[str, float]:
    """Quantiles of exact sorted values, each an observed one (the smallest v with at least that share <= v)."""
    if not len(values):
        return {}
    ordered = np.sort(values)
    return {f"{q:g}": float(ordered[max(0, int(np.ceil(q * len(ordered))) - 1)]) for q in sorted(QUANTILES)}


def measure(p: np.ndarray, labels: list[str], truth: np.ndarray, positive: str) -> dict[str, Any]:
    """Held-out figures of a classifier.

    p          float64 [n, labels]
    truth      int [n]
    positive   the label whose probability is the score

    accuracy and recall per label are of the most probable label; `score_quantiles` are those of the score over the
    texts that are *not* positive (the pool one selects from): what a threshold for "the top 10 %" is read from.
    """
    n = len(truth)
    if not n:
        return {"n": 0}
    guess, at = p.argmax(1), labels.index(positive)
    score, is_positive = p[:, at], truth == at
    area = auc(score, is_positive)
    return {
        "n": n,
        "accuracy": float((guess == truth).mean()),
        "majority": float(np.bincount(truth).max() / n),
        "auc": None if np.isnan(area) else area,
        "recall": {
            label: float((guess[truth == i] == i).mean()) for i, label in enumerate(labels) if (truth == i).any()
        },
        "reliability": reliability(score, is_positive),
        "score_quantiles": quantiles(score[~is_positive]),
    }
