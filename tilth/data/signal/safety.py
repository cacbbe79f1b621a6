"""A level of harm, 0 (safe) to 5 (highly unsafe): the highest that applies to any piece of the document.

After Safety Pretraining (Maini et al. 2025, arXiv:2504.16980), which takes the maximum of two scorers and of chunks and
weighs unsafe examples up. Here one linear classifier (as `classifier`) scores every piece; a level applies where
P(level >= k) reaches `threshold`. Give it labelled examples of your own (labels 0 to 5). Without them it learns from
synthetic sentences that come with tilth: good for trying a pipeline, not for judging the world. What was measured on
held-out examples stands in the model's `model.json` (recall, precision and F1 of "level >= k").

Fails when: harm is in what is meant, not in the words; irony, quotation and discussion of harm look like harm.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from tilth.core.config import Config as BaseConfig
from tilth.core.hashing import content_hash
from tilth.core.located import Located
from tilth.data.native.buffers import texts
from tilth.data.scoring import examples, linear, safety
from tilth.data.scoring.examples import Examples
from tilth.data.scoring.linear import Learning

CARD = {
    "title": "Safety level 0 to 5",
    "paper": "arXiv:2504.16980",
    "claim": "Finds unsafe sentences of held-out synthetic templates better than chance; nothing is claimed beyond.",
    "check": "Held-out recall of level >= 1 and the maximum over pieces (tests/data/signal/test_safety.py).",
    "exempt": {
        "knob:model": "names files of the user's; tests/data/signal/test_safety.py reads some",
        "knob:examples": "names files of the user's; tests/data/signal/test_safety.py reads some",
        "knob:safe": "names files of the user's; tests/data/signal/test_safety.py reads some",
        "knob:learning": "settings of a training; tests/data/signal/test_classifier.py moves them",
    },
}


class Config(BaseConfig):
    """Which classifier, and when a level applies."""

    model: Located | None = None
    """Folder of a trained classifier of the labels 0 to 5."""
    examples: Examples | None = None
    """Texts labelled 0 to 5 to train one from; null and no `model`: the synthetic sentences."""
    safe: list[Located] = []
    """Files of ordinary text that is taken as safe while training, beside the examples; a classifier that knows the
    words of ordinary text raises fewer false alarms."""
    learning: Learning = Learning(dim=32, lr=1.0, epochs=20, buckets=200_000, held_out=0.25)
    """How it is trained."""
    unsafe_weight: float = Field(2.0, gt=0)
    """Weight in the loss of every example above level 0."""
    threshold: float = Field(0.5, gt=0, lt=1)
    """Least probability of "at least this level" for a level to apply."""
    piece_bytes: int = Field(1000, ge=100)
    """Bytes of a piece, which ends at white space."""

    @model_validator(mode="after")
    def _one(self) -> Config:
        if self.model is not None and (self.examples is not None or self.safe):
            raise ValueError("give either `model` or what to train one from")
        return self

    def columns(self) -> dict[str, str]:
        """Two."""
        return {
            "safety_level": "0 (safe) to 5 (highly unsafe), the highest of any piece",
            "safety_unsafe": "highest probability of any piece to be above level 0",
        }

    def folder(self) -> Path:
        """Where the classifier lies; trains it where it must be."""
        if self.model is not None:
            return Path(self.model).expanduser()
        return safety.trained(self.examples, self.safe, self.learning, self.unsafe_weight)

    def fingerprint(self) -> str:
        """Changes when the levels would."""
        if self.model is None:
            return content_hash([self.examples and self.examples.fingerprint(), examples.fingerprint(self.safe)])
        return str(linear.kept.sheet(self.folder(), linear.KIND).get("hash"))

    def build(self) -> Safety:
        """The signal; trains the classifier where there is none yet."""
        return Safety(self)


class Safety:
    """Holds the classifier."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._model = linear.load(config.folder())
        for label in self._model.labels:
            if label not in safety.LEVELS:
                raise linear.DataError(f"'{label}' is no level of safety.", where=str(config.folder()))

    def compute(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        """Levels of the batch's texts."""
        column = texts(batch.column("text"))
        spans, owner = safety.pieces(column, self._config.piece_bytes)
        p = self._model.probabilities(spans)
        level, unsafe = np.zeros(len(column), np.int64), np.zeros(len(column))
        np.maximum.at(level, owner, safety.levels(self._model, p, self._config.threshold))
        np.maximum.at(unsafe, owner, safety.at_least(self._model, p)[:, 0])
        return {"safety_level": pa.array(level), "safety_unsafe": pa.array(unsafe)}
