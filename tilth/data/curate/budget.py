"""The best of all documents by a signal, as many as a budget holds.

Documents are ordered by the signal's column, equal ones by a hash of their ids, and taken from the best on while their
tokens (bytes, or number) fit. The order is never made, see `tilth.data.across.prefix`.

Fails when: the signal is no measure of worth. The best by a model's loss, for instance, are the most predictable.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from tilth.core.errors import DataError, RecipeError, nearest
from tilth.core.opening import OpensModel
from tilth.core.protocols import SignalSpec, Verdicts
from tilth.core.rundir import read_json, write_json
from tilth.core.technique import slot
from tilth.data.across import prefix
from tilth.data.across.files import sound
from tilth.data.across.space import FromSketches
from tilth.data.across.tasks import DataTask
from tilth.data.engine.steps import AsksRecipe

if TYPE_CHECKING:
    from tilth.data.across.space import Space

CARD = {
    "title": "The best documents within a budget",
    "paper": "arXiv:2309.04564",
    "claim": "What is kept is a prefix of all documents ordered by the signal, the longest one that fits the budget.",
    "check": "Equal to sorting all documents (tests/data/curate/test_budget.py).",
    "exempt": {
        "knob:signal": "another signal has other columns; tests/data/signal/test_lm_loss.py has one",
        "knob:tokens": "a budget has one unit; tests/data/curate/test_budget.py has all",
        "knob:bytes": "a budget has one unit; tests/data/curate/test_budget.py has all",
        "knob:fraction": "a budget has one unit; tests/data/curate/test_budget.py has all",
        "knob:count": "goes with tokens; tests/data/curate/test_budget.py has it",
    },
}

SMALL = {"signal": "gopher", "column": "gopher_words", "documents": 6}
KNOBS = {"documents": 3, "column": "gopher_word_length"}
"""Where the contract's documents show a knob."""


class Config(AsksRecipe):
    """Which documents are the best, and how many are kept."""

    signal: Annotated[SignalSpec, slot("signal")]
    """What measures them."""
    column: str
    """The signal's column they are ordered by; a number. Documents without one are dropped."""
    best: Literal["lowest", "highest"] = "highest"
    """Which end is kept."""
    tokens: int | None = Field(None, gt=0)
    """At most so many tokens, as `count` counts them."""
    bytes: int | None = Field(None, gt=0)
    """At most so many bytes of text."""
    documents: int | None = Field(None, gt=0)
    """At most so many documents."""
    fraction: float | None = Field(None, gt=0, le=1)
    """At most this share of the bytes of text."""
    count: str | None = None
    """The signal's column that counts tokens, which a budget of tokens needs."""

    @model_validator(mode="after")
    def _fits(self) -> Config:
        units = [u for u in ("tokens", "bytes", "documents", "fraction") if getattr(self, u) is not None]
        if len(units) != 1:
            raise ValueError(f"a budget is exactly one of tokens, bytes, documents, fraction (got {units or 'none'})")
        columns = list(self.signal.columns())
        for name in (self.column, self.count):
            if name is not None and name not in columns:
                raise ValueError(f"the signal gives no column '{name}'. {nearest(name, columns)}")
        if (self.tokens is None) != (self.count is None):
            raise ValueError("a budget of tokens, and no other, names the column that counts them: `count`")
        return self

    @property
    def asked(self) -> int | None:
        """The amount; None for a fraction, whose amount follows from what there is."""
        return self.tokens or self.bytes or self.documents

    @property
    def unit(self) -> str:
        """What is counted; of a fraction, bytes."""
        return "tokens" if self.tokens else "documents" if self.documents else "bytes"

    def check(self, recipe: Any) -> None:
        """Refuse tokens that are counted by another tokenizer than the one that makes the recipe's tokens."""
        from tilth.data.tokens.tokenizer import Tokenizer

        if self.tokens is None or recipe.tokens is None or not isinstance(self.signal, OpensModel):
            return
        path = recipe.tokens.tokenizer.model_dump().get("path")
        if path is None or Tokenizer.load(Path(path)).fingerprint != self.signal.tokenizer():
            raise RecipeError(
                "the budget counts tokens of the proxy's tokenizer, and the recipe's tokens are made by another.",
                where="tokens.tokenizer",
                fix=f"tokens.tokenizer: {{use: pretrained, path: {self.signal.model}/tokenizer}} is the proxy's; or "
                "give the budget in bytes.",
            )

    def check_came(self, documents: int, size: int | None) -> None:
        """Refuse more documents or bytes than there are, before any is scored."""
        there = {"documents": documents, "bytes": size}.get(self.unit)
        if self.asked is not None and there is not None and self.asked > there > 0:
            raise _above(self.asked, self.unit, there, "that come to it have")

    def build(self) -> Budget:
        """The step."""
        return Budget(self)


def _above(asked: int, unit: str, there: int, which: str) -> DataError:
    return DataError(
        f"the budget is {asked:,} {unit}, and all documents {which} {there:,}.",
        where="curate.budget",
        fix=f"Ask for at most {there:,}, or leave the step out." if there else "Leave the step out.",
    )


class Budget(FromSketches):
    """Keys and sizes in `sketch`, the end of the budget in one round, verdicts by comparison with it."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._sign = 1 if config.best == "lowest" else -1
        self.needs = (config.signal,)

    def sketches_like(self, other: FromSketches) -> bool:
        """Whether the other is a budget of the same order and unit."""
        if not isinstance(other, Budget):
            return False
        mine, theirs = self._config, other._config
        same = ("signal", "column", "best", "count", "unit")
        return all(getattr(mine, name) == getattr(theirs, name) for name in same)

    def sketch(self, batch: pa.RecordBatch, signals: pa.RecordBatch, first: int) -> pa.RecordBatch:
        """Of each document: its key, of which lower is better, and its size in units of the budget."""
        config, n = self._config, batch.num_rows
        value = np.full(n, np.nan)
        size = np.ones(n, np.int64)
        if n:
            value = pc.cast(signals.column(config.column), pa.float64()).to_numpy(zero_copy_only=False).astype(float)
            if config.count is not None:
                size = pc.fill_null(signals.column(config.count), 0).to_numpy(zero_copy_only=False).astype(np.int64)
            elif config.documents is None:
                size = pc.binary_length(batch.column("text")).to_numpy(zero_copy_only=False).astype(np.int64)
        digests = [hashlib.blake2b(i.encode(), digest_size=8).digest() for i in batch.column("id").to_pylist()]
        rank = prefix.rank(self._sign * value)
        columns = (value, rank, np.frombuffer(b"".join(digests), "<u8"), size)
        return pa.RecordBatch.from_arrays(
            [pa.array(c, t) for c, t in zip(columns, prefix.SKETCH.types, strict=True)], schema=prefix.SKETCH
        )

    def rounds(self, space: Space) -> Iterator[Sequence[DataTask]]:
        """One task finds where the budget ends."""
        yield [DataTask(space.dir / "end", partial(find_end, space, self._config))]

    def verdicts(self, part: int, space: Space) -> Verdicts:
        """The documents before the end are kept. The threshold is the value of the last that is."""
        end = prefix.End(**read_json(sound(space.dir / "end" / "end.json")))
        rows = pa.Table.from_batches(space.sketch(part), prefix.SKETCH)
        value, rank, tie = (rows.column(c).to_numpy() for c in ("value", "rank", "tie"))
        keep = (rank < end.rank) | ((rank == end.rank) & (tie < end.tie))
        keep &= ~np.isnan(value)
        dropped = np.where(np.isnan(value), "no value", "beyond the budget")
        reason = ["" if k else str(d) for k, d in zip(keep, dropped, strict=True)]
        limit = np.nan if end.last is None else prefix.value(end.last)
        return Verdicts(keep, reason, value=value, threshold=np.full(len(value), self._sign * limit))


def find_end(space: Space, config: Config, aside: Path) -> None:
    """Write the key at which the budget ends: documents with lower ones fit. Raises DataError for a budget above what
    there is, and if no document has a value."""
    came = sum(map(space.sketch_rows, range(len(space.parts))))
    valued = total = 0
    for rows in prefix.rows(space):
        valued, total = valued + len(rows), total + int(rows["size"].sum())
    if came and not valued:
        raise DataError(
            f"none of the {came:,} documents has a value in '{config.column}', so none is among the best.",
            where="curate.budget",
            fix="`tilth data signals` shows what the signal gives; name another column.",
        )
    if came and config.asked is not None and config.asked > total:
        raise _above(config.asked, config.unit, total, "with a value have")
    left = math.floor(total * (config.fraction or 0)) if config.asked is None else config.asked
    write_json(aside / "end.json", prefix.end(space, left)._asdict())
