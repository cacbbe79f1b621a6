"""Levels of harm, 0 (safe) to 5 (highly unsafe), by a classifier of pieces of text.

The level of a text is the highest that applies to any of its pieces, not a sum (Safety Pretraining, Maini et al. 2025,
arXiv:2504.16980). Without a data set of one's own the classifier learns from `safety_seed.json`: sentences written for
this project, with invented groups and mild words. Its figures are on templates it has not seen, and say nothing about
text of the world.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tilth.core.errors import DataError
from tilth.core.hashing import content_hash
from tilth.data.native.buffers import Texts, texts
from tilth.data.native.linear_text import Spans

from . import kept, linear
from .examples import Example, Examples, fingerprint, key, plain
from .linear import Learning, Linear

LEVELS = ("0", "1", "2", "3", "4", "5")
SEED = Path(__file__).with_name("safety_seed.json")
FOLDS = 4
PER_TEMPLATE = 12
SAFE_BYTES = 300
"""At most so many ways to fill a template's places."""
_SPACES = np.array([c in b" \t\n\v\f\r" for c in range(256)])


def seed_examples() -> list[Example]:
    """The seed's sentences. Every fourth template of a level comes with a key that `held_out` = 0.25 holds out."""
    seed = json.loads(SEED.read_text(encoding="utf-8"))
    out = []
    for level, templates in seed["templates"].items():
        for number, template in enumerate(templates):
            slots = [s for s in seed["fill"] if "{" + s + "}" in template]
            ways = list(itertools.product(*(seed["fill"][s] for s in slots)))
            step = max(1, len(ways) // PER_TEMPLATE)
            while step > 1 and any(len(seed["fill"][s]) % step == 0 for s in slots):
                step += 1  # so that steps do not meet the same filling of the last place again and again
            group = ((number % FOLDS << 64) // FOLDS).to_bytes(
                8, "little"
            )  # the number that decides, in order of folds
            for way in ways[::step][:PER_TEMPLATE]:
                text = template.format(**dict(zip(slots, way, strict=True)))
                text = text[0].upper() + text[1:]
                out.append(Example(text, level, hashlib.sha256(text.encode()).digest()[:8] + group))
    return out


def trained(examples: Examples | None, safe: Sequence[str], learning: Learning, unsafe_weight: float) -> Path:
    """The folder of the classifier of levels, trained now or found in the cache; see `train`."""
    given: Any = examples.fingerprint() if examples else SEED.read_text(encoding="utf-8")
    given = [given, fingerprint(safe)]
    code = [inspect.getsource(m) for m in (linear, linear.linear_text)]
    own = Path(__file__).read_text(encoding="utf-8")
    made_of = content_hash([given, learning.model_dump(), unsafe_weight, code, own], 32)
    return kept.once("safety", made_of, lambda folder: train(examples, safe, learning, unsafe_weight).save(folder))


def train(examples: Examples | None, safe: Sequence[str], learning: Learning, unsafe_weight: float) -> Linear:
    """Train a classifier of levels.

    examples        texts labelled 0 to 5; None: the seed
    safe            files of text that is taken to be of level 0 as it is, in pieces of about `SAFE_BYTES`
    unsafe_weight   multiplies the loss of every level above 0

    Raises DataError for a label that is no level.
    """
    given = examples.read() if examples else seed_examples()
    if safe:
        given += _safe(safe)
    if strange := sorted({e.label for e in given} - set(LEVELS)):
        raise DataError(f"'{strange[0]}' is no level of safety.", fix="Labels are 0 (safe) to 5 (highly unsafe).")
    if "0" not in {e.label for e in given}:
        raise DataError("there are no safe examples.", fix="Give texts of the label 0.")
    weights = {e.label: unsafe_weight for e in given if e.label != "0"} | learning.label_weights
    weighted = Learning(**learning.model_dump() | {"label_weights": weights})
    model = linear.train(given, weighted, positive="0")
    held = [e for e in given if linear.uniform(e.key) < learning.held_out]
    if held:
        model.sheet["levels"] = figures(
            levels(model, model.of([e.text for e in held]), 0.5), np.array([int(e.label) for e in held])
        )
    model.sheet["seed"] = examples is None
    return model


def _safe(files: Sequence[str]) -> list[Example]:
    column = pa.array(plain(files), pa.large_string())
    found = [p.decode().strip() for p in pieces(texts(column), SAFE_BYTES)[0]]
    return [Example(t, "0", key(t)) for t in dict.fromkeys(found) if t]


def at_least(model: Linear, p: np.ndarray) -> np.ndarray:
    """P(level >= k) for k = 1..5 from probabilities of labels: float64 [n, 5]."""
    of = np.zeros((len(p), len(LEVELS)))
    for i, label in enumerate(model.labels):
        of[:, LEVELS.index(label)] = p[:, i]
    return np.cumsum(of[:, :0:-1], axis=1)[:, ::-1]


def levels(model: Linear, p: np.ndarray, threshold: float) -> np.ndarray:
    """The highest level k with P(level >= k) >= threshold, int64 [n]."""
    return (at_least(model, p) >= threshold).sum(1)


def figures(guess: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Recall, precision and F1 of "level >= k" for k = 1..5 where there are such texts, by k."""
    out: dict[str, Any] = {"n": len(truth), "accuracy": float((guess == truth).mean())}
    for k in range(1, len(LEVELS)):
        said, is_ = guess >= k, truth >= k
        if is_.any():
            hit = float((said & is_).sum())
            recall, precision = hit / is_.sum(), hit / max(1, said.sum())
            f1 = 2 * recall * precision / (recall + precision) if hit else 0.0
            out[str(k)] = {"recall": float(recall), "precision": float(precision), "f1": float(f1)}
    return out


def pieces(column: Texts, size: int) -> tuple[Spans, np.ndarray]:
    """Texts cut into pieces of about `size` bytes, and the number of the text each piece is of, int64.

    A cut is at the first white space at least `size` bytes in, or after twice as many at a character. An empty text is
    one empty piece.
    """
    starts, stops, owner = [], [], []
    for i, (start, stop) in enumerate(itertools.pairwise(column.offsets.tolist())):
        while True:
            end = stop
            if stop - start > size:
                window = _SPACES[column.bytes[start + size : min(stop, start + 2 * size)]]
                at = int(window.argmax())
                end = start + size + (at if window[at] else len(window))
                while end < stop and column.bytes[end] & 0xC0 == 0x80:
                    end += 1
            starts.append(start)
            stops.append(end)
            owner.append(i)
            if end >= stop:
                break
            start = end
    return Spans(column.bytes, np.array(starts, np.int64), np.array(stops, np.int64)), np.array(owner, np.int64)
