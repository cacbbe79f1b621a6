"""The quality signals of RedPajama-v2 that need no model (Weber et al. 2024, arXiv:2411.12372).

Columns keep RedPajama's names, with one value per document; of the signals that it gives per line, the mean or the sum
over lines. Perplexity, importance weights and classifier scores are techniques of their own.

Fails when: the language is not written with spaces between words; then words, and all that is counted in words, mean
little.
"""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
from pydantic import Field

from tilth.core.config import Config as BaseConfig
from tilth.core.errors import RecipeError
from tilth.core.located import Located
from tilth.data.native.redpajama import COLUMNS, WHOLE, RedPajama
from tilth.data.signal.stop_words import SMART

CARD = {
    "title": "RedPajama-v2 quality signals",
    "paper": "arXiv:2411.12372",
    "claim": "All signals of RedPajama-v2 that need no model, in one pass of compiled code over the text.",
    "check": "Equal to a plain reading of the official definitions on arbitrary Unicode, and to hand-computed values "
    "(tests/data/signal/test_redpajama.py).",
    "exempt": {
        "knob:bad_words": "names a file of the user's; tests/data/signal/test_redpajama.py reads one",
        "knob:blocklist": "names a file of the user's; tests/data/signal/test_redpajama.py reads one",
    },
}

KNOBS = {"stop_words": ["the"]}

_BAD, _BLOCKED = "rps_doc_ldnoobw_words", "rps_doc_ut1_blacklist"


class Config(BaseConfig):
    """What the signals compare texts with."""

    stop_words: list[str] | None = None
    """Words that count as stop words, as they stand in the text; null: the English SMART list, as RedPajama's."""
    bad_words: Located | None = None
    """File with a word or phrase a line, in lower case without punctuation, such as LDNOOBW's; null: no such column."""
    blocklist: Located | None = Field(None)
    """JSON file of an object domain -> number of its category, such as UT1's; null: no such column."""

    def columns(self) -> dict[str, str]:
        """The names of RedPajama-v2."""
        out = {k: v for k, v in COLUMNS.items() if k != _BAD or self.bad_words is not None}
        if self.blocklist is not None:
            out[_BLOCKED] = "category of the document's domain in the block list; null where it stands in none"
        return out

    def build(self) -> Signals:
        """Read the lists. Raises RecipeError where one cannot be read."""
        return Signals(self)


class Signals:
    """Computes the columns of a batch."""

    def __init__(self, config: Config) -> None:
        self._names = list(config.columns())
        bad = _lines(config.bad_words) if config.bad_words is not None else []
        self._kernel = RedPajama(SMART if config.stop_words is None else config.stop_words, bad)
        self._domains = None if config.blocklist is None else _domains(config.blocklist)

    def compute(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        """A column per signal, null where it has no value."""
        rows = self._kernel(batch.column("text"))
        out = {}
        for i, name in enumerate(COLUMNS):
            if name in self._names:
                values = rows[:, i].astype(np.int64) if name in WHOLE else np.ascontiguousarray(rows[:, i])
                out[name] = pa.array(values, from_pandas=True)
        if self._domains is not None:
            found = [self._domains.get(_domain(url)) for url in batch.column("url").to_pylist()]
            out[_BLOCKED] = pa.array(found, pa.int64())
        return out


def _domain(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").removeprefix("www.")
    except ValueError:
        return ""


def _lines(path: str) -> list[str]:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as err:
        raise RecipeError(f"the list of bad words cannot be read: {err}.", where="bad_words") from None
    return sorted({" ".join(line.split()) for line in lines if line.strip()})


def _domains(path: str) -> dict[str, int]:
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise RecipeError(f"the list of domains cannot be read: {err}.", where="blocklist") from None
    if not isinstance(data, dict) or not all(type(v) is int for v in data.values()):
        raise RecipeError("this is no JSON object of domains and numbers.", where=f"blocklist: {path}")
    return data
