"""What kind of text it is, by several classifiers at once: toxicity, quality, type of speech, domain.

Data, Data Everywhere (Parmar et al. 2024, arXiv:2407.06380) describes web documents by these four and samples by them.
Each attribute is a classifier trained here from labelled examples; the column says the most probable label and its
probability, and `curate.attributes` writes them, with the hash of the model, into the documents' metadata.

Fails when: the labels of the examples are not those one means; the classes of the paper's own models are not public
as a list.
"""

from __future__ import annotations

import pyarrow as pa
from pydantic import Field

from tilth.core.config import Config as BaseConfig
from tilth.core.hashing import content_hash
from tilth.data.scoring.linear import Classifier

CARD = {
    "title": "Attributes of documents",
    "paper": "arXiv:2407.06380",
    "claim": "Labels held-out texts better than the most frequent label does.",
    "check": "Held-out accuracy against the majority on three kinds of text (tests/data/signal/test_attributes.py).",
}


class Config(BaseConfig):
    """Which attributes."""

    attributes: dict[str, Classifier] = Field(min_length=1)
    """Name of an attribute (such as `toxicity`, `quality`, `speech`, `domain`) -> its classifier."""

    def columns(self) -> dict[str, str]:
        """Three per attribute."""
        out = {}
        for name in self.attributes:
            out[f"attributes_{name}"] = "most probable label"
            out[f"attributes_{name}_prob"] = "its probability"
            out[f"attributes_{name}_model"] = "hash of the model that says so"
        return out

    def fingerprint(self) -> str:
        """Changes when the labels would."""
        return content_hash({name: one.fingerprint() for name, one in self.attributes.items()})

    def build(self) -> Attributes:
        """The signal; trains classifiers where there are none yet."""
        return Attributes(self)


class Attributes:
    """Holds the classifiers."""

    def __init__(self, config: Config) -> None:
        self._models = {name: one.classifier() for name, one in sorted(config.attributes.items())}

    def compute(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        """Labels, probabilities and model hashes of the batch's texts."""
        out: dict[str, pa.Array] = {}
        for name, model in self._models.items():
            p = model.of(batch.column("text"))
            best = p.argmax(1)
            out[f"attributes_{name}"] = pa.array([model.labels[i] for i in best], pa.string())
            out[f"attributes_{name}_prob"] = pa.array(p[range(len(best)), best], pa.float64())
            out[f"attributes_{name}_model"] = pa.array([model.hash] * len(best), pa.string())
        return out
