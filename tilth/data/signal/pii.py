"""How much personal data and how many secrets a document holds: e-mail and IP addresses, phone and card numbers, keys.

What counts is what `redact` would replace (`tilth.data.native.patterns`): private networks, well-known name servers and
example addresses do not. Dolma drops pages with more than five such places (Soldaini et al. 2024, arXiv:2402.00159).

Fails when: personal data is words (names, postal addresses), or numbers are written in a way of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from tilth.core.config import Config as BaseConfig
from tilth.data.native import patterns

if TYPE_CHECKING:
    from numpy.typing import NDArray

CARD = {
    "title": "Counts of personal data",
    "paper": "arXiv:2402.00159",
    "claim": "Counts, by kind, of the personal data and secrets in a document, in linear time.",
    "check": "Equal to a plain reading with regular expressions on arbitrary text (tests/data/curate/test_redact.py).",
}

_WHAT = {
    "email": "e-mail addresses",
    "ipv4": "public IPv4 addresses",
    "ipv6": "public IPv6 addresses",
    "phone": "phone numbers",
    "card": "payment card numbers",
    "key": "keys, tokens and passwords",
}


class Config(BaseConfig):
    """There is nothing to choose."""

    def columns(self) -> dict[str, str]:
        """A count per kind, and their sum."""
        return {f"pii_{kind}": what for kind, what in _WHAT.items()} | {"pii_total": "sum of the counts by kind"}

    def build(self) -> Signals:
        """The counter, which has no memory."""
        return Signals()


class Signals:
    """Counts a batch."""

    def compute(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        """int64 columns."""
        counts: NDArray[np.int64] = np.zeros((len(patterns.KINDS), batch.num_rows), np.int64)
        for match in patterns.find(batch.column("text")):
            counts[match.kind, match.row] += 1
        columns = {f"pii_{kind}": pa.array(row) for kind, row in zip(patterns.KINDS, counts, strict=True)}
        return columns | {"pii_total": pa.array(counts.sum(axis=0))}
