"""The loss of each document under a model that was trained before, such as a small proxy run.

A document is scored behind the token that starts documents, in overlapping windows where it is longer than the model's
sequence, as evaluation scores it. Documents of a batch are scored together, which moves the last bits of a loss;
figures are rounded to six digits, and with other neighbours they are the same to 1e-5 of themselves. A batch holds the
same documents however many workers there are.

Fails when: the model has seen the documents (their loss is low because they are known), or reads another language.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow as pa

from tilth.core.errors import DataError
from tilth.core.hashing import content_hash
from tilth.core.opening import Opens, OpensModel
from tilth.core.rundir import read_json
from tilth.data.tokens.tokenizer import Tokenizer

CARD = {
    "title": "Loss under a proxy model",
    "paper": "arXiv:2309.04564",
    "claim": "A text of the proxy's kind has a lower loss per byte than one whose words are shuffled.",
    "baseline": "signal.perplexity",
    "check": "Equal to the cross entropy of the model's logits, one by one (tests/data/signal/test_lm_loss.py).",
}


class Config(OpensModel):
    """Which model."""

    def columns(self) -> dict[str, str]:
        """Three; null for a document without a token."""
        return {
            "lm_loss_nats": "mean loss in nats per token",
            "lm_loss_bits": "loss in bits per byte of text",
            "lm_loss_tokens": "tokens of the model's tokenizer, without the one that starts the document",
        }

    def fingerprint(self) -> str:
        """Content of the weights and the tokenizer. Raises DataError if the run has not finished or is none."""
        record = Path(self.model) / "model" / "model.json"
        if not record.is_file():
            unfinished = (Path(self.model) / "recipe.yaml").is_file()
            raise DataError(
                "this run has no finished model yet." if unfinished else "this is no training run.",
                where=str(self.model),
                fix="`tilth run` it to its end first." if unfinished else "Name the directory of a finished run.",
            )
        return content_hash([read_json(record)["sha256"], self.tokenizer()])

    def tokenizer(self) -> str:
        """Fingerprint of the tokenizer that counts the tokens."""
        return Tokenizer.load(Path(self.model) / "tokenizer").fingerprint

    def build(self, opens: Opens | None = None) -> LmLoss:
        """The signal; opens the model."""
        return LmLoss(self.opened(opens))


class LmLoss:
    """Holds the model."""

    def __init__(self, speaker: Any) -> None:
        self._speaker = speaker

    def compute(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        """Losses of the batch's texts."""
        texts = batch.column("text").to_pylist()
        ids = self._speaker.documents(texts)
        scored = [i for i, tokens in enumerate(ids) if len(tokens) > 1]
        nats: list[float | None] = [None] * len(ids)
        bits = nats.copy()
        counts = [len(tokens) - 1 for tokens in ids]
        for i, score in zip(scored, self._speaker.score([ids[i] for i in scored], [1] * len(scored)), strict=True):
            nats[i] = _short(-score.nats / counts[i])
            bits[i] = _short(-score.nats / math.log(2) / len(texts[i].encode()))
        return {
            "lm_loss_nats": pa.array(nats, pa.float64()),
            "lm_loss_bits": pa.array(bits, pa.float64()),
            "lm_loss_tokens": pa.array(counts, pa.int64()),
        }


def _short(value: float) -> float:
    """Six significant digits: the last bits of a sum depend on how a matrix product was cut."""
    return float(f"{value:.6g}")
