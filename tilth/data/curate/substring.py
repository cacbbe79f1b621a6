"""Exact substrings: spans of 50 words or more that stand elsewhere too are cut out, whatever surrounds them.

A span of at least `length` words that repeats is a row of windows of exactly `length` words that each repeat, so the
words to cut are the union of the repeated windows. They are found without a suffix array, on disk, in five rounds:

    anchors   of each part, its windows' anchors (`tilth.data.native.substring`), sorted, 8 bytes each
    repeated  of each range of anchors, which are met more than once anywhere; all others' windows are unique
    windows   of each part, the windows with such an anchor: 128 bits of hash over the 64-bit hashes of their words
    shared    of each range of hashes, which are met in several parts, and where first
    spans     of each part, the words covered

Nothing is missed, as equal windows have equal anchors; what is not equal is cut only if 128 bits collide. A task holds
the records of one part, or of a range of hashes that `bucket_bytes` bounds; the output depends on neither.

A cut never enters a word, so never a code point. Of the white space on both sides the one with more line breaks stays.
What a cut joins may repeat again; where that matters, name the step twice. Lee et al. 2022, arXiv:2107.06499, which
finds the same spans in token ids and removes every copy (`policy: remove_all`).

Fails when: copies differ by a word at least every `length` words; `minhash` finds those.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from tilth.core.config import Config as BaseConfig
from tilth.core.errors import DataError
from tilth.core.located import LocatedOrName
from tilth.core.protocols import Edit, Verdicts
from tilth.core.rundir import read_json
from tilth.data.across import clusters, spans
from tilth.data.native import hashing
from tilth.data.native import substring as native
from tilth.data.native.buffers import texts
from tilth.data.native.substring import Words

if TYPE_CHECKING:
    from tilth.data.across.space import Space
    from tilth.data.across.tasks import DataTask

CARD = {
    "title": "Exact substring deduplication",
    "paper": "arXiv:2107.06499",
    "claim": "Cuts the words of every span of at least `length` words that stands elsewhere too, and no other.",
    "check": "Spans equal those of a quadratic comparison of all windows (tests/data/curate/test_substring.py).",
    "exempt": {
        "knob:tokens": "its other values are files of the user's",
        "knob:bucket_bytes": "bounds memory and changes no outcome, which the tests hold it to",
    },
}

KNOBS = {
    "share": {"policy": "drop_document", "share": 0.01},
    "policy": "remove_all",
    "min_left": 10_000,
    "scope": "source",
}


class Config(BaseConfig):
    """Which repeats count, and what becomes of them."""

    length: int = Field(50, ge=2, le=10_000)
    """Words (or tokens) of the shortest span that counts as repeated."""
    tokens: LocatedOrName = Field(LocatedOrName("words"), min_length=1)
    """words: runs without white space, single characters in Thai, kana and Han; else the path of a tokenizer.json."""
    policy: Literal["keep_first", "remove_all", "drop_document"] = "keep_first"
    """keep_first: all copies but the first in the order of the input are cut; remove_all: the first too;
    drop_document: nothing is cut, documents that mostly repeat earlier text are dropped."""
    share: float = Field(0.5, ge=0.0, lt=1.0)
    """drop_document: documents go whose share of words that repeat earlier text is greater."""
    min_left: int = Field(50, ge=0)
    """Words; documents that are cut to fewer are dropped."""
    scope: str = "global"
    """Where copies are looked for: global, within each source, or within each value of a metadata field ("dump")."""
    bucket_bytes: int = Field(128_000_000, gt=0)
    """Bytes of hashes compared at a time; a worker holds about five times as much. Changes no outcome."""

    def build(self) -> Substring:
        """The step. Raises DataError for a tokenizer that is missing."""
        return Substring(self)


class Substring:
    """Sketches are the documents' words as hashes; documents shorter than `length` have none."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._tokenizer = None if config.tokens == "words" else _tokenizer(config.tokens)
        self._spans: tuple[Path, np.ndarray, list[str]] | None = None

    def sketch(self, batch: pa.RecordBatch, signals: pa.RecordBatch, first: int) -> pa.RecordBatch:
        """row uint32, id, salt uint64, words large_binary (uint64 each, little-endian) of the documents long enough."""
        words = self._words(batch.column("text"))
        rows = np.flatnonzero(np.diff(words.offsets) >= self._config.length)
        salts = clusters.scopes(batch, self._config.scope)[rows]
        blob = pa.LargeBinaryArray.from_buffers(
            pa.large_binary(), batch.num_rows, [None, pa.py_buffer(words.offsets * 8), pa.py_buffer(words.hashes)]
        )
        return pa.record_batch(
            [
                pa.array(rows + first, pa.uint32()),
                batch.column("id").take(pa.array(rows)),
                pa.array(salts, pa.uint64()),
                blob.take(pa.array(rows)),
            ],
            names=["row", "id", "salt", "words"],
        )

    def rounds(self, space: Space) -> Iterator[Sequence[DataTask]]:
        """The five rounds at the top of this page."""
        from tilth.data.across.tasks import DataTask

        length, n = self._config.length, len(space.parts)

        def each(name: str, count: int, make: Any) -> list[DataTask]:
            return [
                DataTask(space.dir / name / f"{i:06d}", functools.partial(make, space=space, index=i))
                for i in range(count)
            ]

        def buckets(name: str) -> int:
            size = sum((space.dir / name / f"{part:06d}" / "keys.npy").stat().st_size for part in range(n))
            return max(1, math.ceil(size / self._config.bucket_bytes))

        yield each("anchors", n, functools.partial(spans.anchors, length=length))
        count = buckets("anchors")
        yield each("repeated", count, functools.partial(spans.repeated, count=count))
        yield each("windows", n, functools.partial(spans.candidates, length=length, count=count))
        count = buckets("windows")
        yield each("shared", count, functools.partial(spans.shared, count=count))
        every = self._config.policy == "remove_all"
        yield each("spans", n, functools.partial(spans.covered, length=length, count=count, every=every))

    def judge(self, batch: pa.RecordBatch, first: int, part: int, space: Space) -> Verdicts:
        """Cut what repeats, or drop the documents that mostly do.

        Metadata: `substring_words`, how many words repeat; `substring_first`, ids of the documents that had the spans
        first (its own: a span that stood before in itself).
        """
        found, owners = self._load(space.dir / "spans" / f"{part:06d}")
        n = batch.num_rows
        keep, reason = np.ones(n, dtype=bool), [""] * n
        value, threshold = np.full(n, np.nan), np.full(n, np.nan)
        metadata: dict[str, list[Any]] = {"substring_words": [None] * n, "substring_first": [None] * n}
        column, edits, changed = batch.column("text"), [], {}
        low, high = np.searchsorted(found[:, 0], [first, first + n])
        for row, group in itertools.groupby(range(low, high), key=lambda k: int(found[k, 0])):
            i, which = row - first, list(group)
            cuts = found[which, 1:].tolist()
            text = column[i].as_py()
            starts, stops = self._places(text)
            repeated = sum(stop - start for start, stop in cuts)
            metadata["substring_words"][i] = repeated
            metadata["substring_first"][i] = sorted({owners[k] for k in which})
            if self._config.policy == "drop_document":
                if repeated > self._config.share * len(starts):
                    keep[i], reason[i] = False, "repeated text"
                    value[i], threshold[i] = repeated / len(starts), self._config.share
                continue
            if len(starts) - repeated < self._config.min_left:
                keep[i], reason[i] = False, "too little left of repeated text"
                value[i], threshold[i] = len(starts) - repeated, self._config.min_left
                continue
            ranges = [_range(text, starts, stops, start, stop) for start, stop in cuts]
            made = [Edit(i, a, b, "repeated text", text[a:b], "") for a, b in ranges if a < b]
            edges = [0, *itertools.chain.from_iterable((e.start, e.stop) for e in made), len(text)]
            changed[i] = "".join(text[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True))
            edits += made
        out = Verdicts(keep, reason, value, threshold, edits=edits, metadata=metadata)
        if changed:
            rows = [changed.get(i, text) for i, text in enumerate(column.to_pylist())]
            out.text = pa.array(rows, pa.large_string())
        return out

    def _load(self, path: Path) -> tuple[np.ndarray, list[str]]:
        if self._spans is None or self._spans[0] != path:
            self._spans = (
                path,
                np.load(path / "spans.npy", allow_pickle=False),
                read_json(path / "first.json", list[str]),
            )
        return self._spans[1:]

    def _words(self, column: pa.Array) -> Words:
        if self._tokenizer is None:
            return native.words(texts(column))
        encoded = self._tokenizer.encode_batch_fast(column.to_pylist(), add_special_tokens=False)
        ids = [np.array(e.ids, np.uint64) for e in encoded]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(i) for i in ids], dtype=np.int64)])
        return Words(hashing.mix(np.concatenate([np.zeros(0, np.uint64), *ids]) + np.uint64(1)), offsets)

    def _places(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Characters at which each word begins and ends. Tokens may share a character."""
        if self._tokenizer is None:
            words = native.words(texts(pa.array([text], pa.large_string())), places=True)
            assert words.starts is not None and words.stops is not None
            raw = np.frombuffer(text.encode(), np.uint8)
            before = np.concatenate([[0], np.cumsum((raw & 0xC0) != 0x80)])
            return before[words.starts], before[words.stops]
        offsets = np.array(self._tokenizer.encode(text, add_special_tokens=False).offsets, np.int64).reshape(-1, 2)
        return offsets[:, 0], offsets[:, 1]


def _tokenizer(path: str) -> Any:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(Path(path).expanduser()))
    except Exception as err:  # the library raises bare Exceptions
        raise DataError(
            f"this tokenizer cannot be read ({err}).", where=path, fix="Name a tokenizer.json, or `tokens: words`."
        ) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _range(text: str, starts: np.ndarray, stops: np.ndarray, first: int, stop: int) -> tuple[int, int]:
    """Characters to cut for the words `first` to `stop`, with the white space on the side with fewer line breaks."""
    before = int(stops[first - 1]) if first else 0
    after = int(starts[stop]) if stop < len(starts) else len(text)
    a, b = max(int(starts[first]), before), min(int(stops[stop - 1]), after)  # a shared character stays
    if a >= b:
        return a, a
    left, right = text[before:a], text[b:after]
    if left.strip() or right.strip():
        return a, b
    if not first or (stop < len(starts) and right.count("\n") <= left.count("\n")):
        return a, after
    return before, b
