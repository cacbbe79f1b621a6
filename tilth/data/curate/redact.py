"""Personal data and secrets are replaced: e-mail and IP addresses, phone and card numbers, keys and passwords.

The matching (`tilth.data.native.patterns`) mends what is known of DataTrove's formatter, which FineWeb was made with:
numbers have borders on both sides (there 1.2.3.4567 becomes 126.96.36.19967), the user part of a URL stays, IPv6 is
seen, and the replacement is chosen by a hash of the document and the place of the match, not by the order of documents.
Replacements come from blocks reserved for documentation and fiction, so running it twice changes nothing.

Dropping is an option: `max_matches` (Dolma, arXiv:2402.00159: more than 5 drop the page). Edits record rule and span,
never what stood there.

Fails when: personal data is words (names, postal addresses): that takes a model.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from tilth.core.config import Config as BaseConfig
from tilth.core.protocols import Edit, Verdicts
from tilth.data.native import patterns

CARD = {
    "title": "Redaction of personal data and secrets",
    "paper": "arXiv:2406.17557",
    "claim": "Addresses, numbers and keys are replaced without touching what surrounds them; only counts are kept.",
    "check": "A table of the known corruptions; running it twice changes nothing (tests/data/curate/test_redact.py).",
}

KNOBS = {"kinds": ["email"]}

Kind = Literal["email", "ipv4", "ipv6", "phone", "card", "key"]

_HOSTS = ("example.com", "example.org", "example.net")
_POOLS: dict[str, tuple[str, ...]] = {
    "email": tuple(f"{name}@{host}" for name in ("email", "firstname.lastname", "name", "contact") for host in _HOSTS),
    "ipv4": tuple(f"{net}.{host}" for net in ("192.0.2", "198.51.100", "203.0.113") for host in (1, 17, 54, 129, 201)),
    "ipv6": tuple(f"2001:db8:{a}::{b}" for a in ("1", "20", "3f") for b in ("1", "17", "8a")),
    "phone": tuple(f"555-555-01{line:02d}" for line in range(100)),
    "card": ("4000-0000-0000-0000",),
    "key": ("REDACTED",),
}
"""RFC 2606, RFC 5737, RFC 3849, the numbers 555-0100 to 555-0199, and a card number that fails Luhn's check."""
_MASKS = {"email": "EMAIL_ADDRESS", "ipv4": "IP_ADDRESS", "ipv6": "IP_ADDRESS", "phone": "PHONE_NUMBER"}
_MASKS |= {"card": "CARD_NUMBER", "key": "KEY"}


class Config(BaseConfig):
    """What is replaced, and by what."""

    kinds: list[Kind] = Field(["email", "ipv4", "ipv6", "phone", "card", "key"], min_length=1)
    """What is looked for."""
    put: Literal["value", "mask"] = "value"
    """value: one of several made-up ones of the same kind; mask: |||EMAIL_ADDRESS||| and the like, as Dolma does."""
    seed: int = Field(0, ge=0)
    """Of the choice among made-up values."""
    max_matches: int | None = Field(None, ge=0)
    """A document with more of them is dropped; null: none is."""

    def build(self) -> Redact:
        """The step, which has no memory."""
        return Redact(self)


class Redact:
    """Replaces in each document by itself."""

    needs = ()
    edits = True

    def __init__(self, config: Config) -> None:
        self._config = config

    def judge(self, batch: pa.RecordBatch, signals: pa.RecordBatch | None = None) -> Verdicts:
        """New texts, with counts by kind in the metadata under `redacted`."""
        column, ids = batch.column("text"), batch.column("id")
        matches: dict[int, list[patterns.Match]] = {}
        for match in patterns.find(column, tuple(self._config.kinds)):
            matches.setdefault(match.row, []).append(match)
        limit, n = self._config.max_matches, batch.num_rows
        many = {row for row, found in matches.items() if limit is not None and len(found) > limit}
        keep = np.array([row not in many for row in range(n)], dtype=bool)
        reason = ["too much personal data" if row in many else "" for row in range(n)]
        value = np.array([len(matches[row]) if row in many else np.nan for row in range(n)], np.float64)
        threshold = np.where(keep, np.nan, np.nan if limit is None else float(limit))
        verdicts = Verdicts(keep, reason, value, threshold)
        changed: dict[int, str] = {}
        counts: list[dict[str, int] | None] = [None] * n
        for row, found in matches.items():
            if row in many:
                continue
            text, document, at, parts = column[row].as_py(), ids[row].as_py(), 0, []
            tally: dict[str, int] = {}
            for ordinal, match in enumerate(found):
                kind = patterns.KINDS[match.kind]
                put = self._put(kind, document, ordinal)
                parts += [text[at : match.start], put]
                at = match.stop
                tally[kind] = tally.get(kind, 0) + 1
                verdicts.edits.append(Edit(row, match.start, match.stop, kind, "", put))
            changed[row] = "".join([*parts, text[at:]])
            counts[row] = tally
        if changed:
            texts = [changed.get(row, text) for row, text in enumerate(column.to_pylist())]
            verdicts.text = pa.array(texts, pa.large_string())
            verdicts.metadata = {"redacted": counts}
        return verdicts

    def _put(self, kind: str, document: str, ordinal: int) -> str:
        if self._config.put == "mask":
            return f"|||{_MASKS[kind]}|||"
        pool = _POOLS[kind]
        key = hashlib.blake2b(f"{self._config.seed}\0{document}\0{ordinal}".encode(), digest_size=8).digest()
        return pool[int.from_bytes(key, "little") % len(pool)]
