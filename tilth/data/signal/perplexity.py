"""How surprised a small n-gram model of a reference text is: perplexity, bits per byte, and CCNet's three buckets.

CCNet (Wenzek et al. 2020, arXiv:1911.00359) sorts web text by the perplexity of a 5-gram model of Wikipedia into head,
middle and tail; Yi, RedPajama-v2 and OpenWebMath filter by it. Here the model is interpolated modified Kneser-Ney of
order 3 over words or 5 over bytes, fitted once to the reference. The cutoffs are numbers in the recipe: compute them in
a pass of their own (thirds of the column; `tilth.data.scoring.ngram.cutoffs`) and freeze them.

Fails when: text is short (few words say little), or good and unlike the reference: low perplexity also means
repetition and boilerplate.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from tilth.core.config import Config as BaseConfig
from tilth.core.located import Located
from tilth.data.scoring import examples, ngram

CARD = {
    "title": "Perplexity under an n-gram model",
    "paper": "arXiv:1911.00359",
    "claim": "Texts of the reference's kind have lower perplexity than scrambled ones.",
    "check": "The probabilities are those of the definition by dictionaries and sum to one "
    "(tests/data/signal/test_perplexity.py).",
}


class Config(BaseConfig):
    """Which model, and where its buckets end."""

    name: str = Field("reference", pattern=r"^[a-z][a-z0-9_]*$")
    """Part of the columns' names."""
    model: Located | None = None
    """Folder of a fitted model."""
    fit: ngram.Fitting | None = None
    """What to fit one to; it is kept in the cache under the key of the reference's content."""
    head: float | None = Field(None, gt=0)
    """Perplexity up to which a document is of the head."""
    tail: float | None = Field(None, gt=0)
    """Perplexity above which a document is of the tail."""

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if (self.model is None) == (self.fit is None):
            raise ValueError("give either `model` or `fit`")
        if (self.head is None) != (self.tail is None) or (self.head or 0) > (self.tail or 0):
            raise ValueError("give `head` and `tail` both, `head` not above `tail`")
        return self

    def columns(self) -> dict[str, str]:
        """Two, and the bucket where there are cutoffs."""
        out = {
            f"perplexity_{self.name}": "perplexity per word (per byte for a model of bytes), null without words",
            f"perplexity_{self.name}_bits": "bits per byte of text, null without words",
        }
        if self.head is not None:
            out[f"perplexity_{self.name}_bucket"] = "head, middle or tail; null without words"
        return out

    def folder(self) -> Path:
        """Where the model lies; fits it where it must be."""
        if self.model is not None:
            return Path(self.model).expanduser()
        assert self.fit is not None
        return ngram.fitted(self.fit)

    def fingerprint(self) -> str:
        """Changes when the perplexities would."""
        if self.fit is not None:
            return examples.fingerprint(self.fit.reference)
        return str(ngram.kept.sheet(self.folder(), ngram.KIND)["sha256"])

    def build(self) -> Perplexity:
        """The signal; fits the model where there is none yet."""
        return Perplexity(self)


class Perplexity:
    """Holds the model."""

    def __init__(self, config: Config) -> None:
        self._columns = list(config.columns())
        self._head, self._tail = config.head, config.tail
        self._model = ngram.load(config.folder())

    def compute(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        """Perplexity of the batch's texts."""
        perplexity, bits = self._model.of(batch.column("text"))
        columns = [pa.array(v, pa.float64(), mask=np.isnan(v)) for v in (perplexity, bits)]
        if self._head is not None and self._tail is not None:
            bucket = np.where(perplexity <= self._head, "head", np.where(perplexity > self._tail, "tail", "middle"))
            columns.append(pa.array(bucket, pa.string(), mask=np.isnan(perplexity)))
        return dict(zip(self._columns, columns, strict=True))
