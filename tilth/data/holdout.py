"""What is held out of training: documents chosen by the hash of their text, the tail of a single large one, or text of
the user's own, which is held against the training text."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa

from tilth.core.recipe import Holdout
from tilth.data.document import text_key
from tilth.data.native import ngrams
from tilth.data.native.buffers import texts

LEAST_TAIL = 500
"""Bytes of text below which a tail says nothing; a document is cut if it has ten times as many."""
RUN = 13
"""Words that make a run which two texts hardly share by chance."""

Kept = dict[str, list[tuple[bytes, int, str]]]
"""Source -> (text_key, bytes, path) of each document that was kept."""


def hold_out(kept: Kept, holdout: Holdout) -> dict[str, np.ndarray]:
    """Choose held-out documents per source: those whose text hashes smallest, a set that hardly moves when documents
    are added. Returns bool [documents] per source.

    What belongs together goes to one side together: equal texts, and the documents that several sources made of one
    file (the code and the prose of a module). A text that stands in several sources is never chosen. Some text always
    stays for training; the share is at least one document where two differ.
    """
    sources_with = _sources_with(kept)
    masks = {source: np.zeros(len(documents), dtype=bool) for source, documents in kept.items()}
    want = {s: max(1, round(holdout.fraction * len(d))) if holdout.fraction else 0 for s, d in kept.items()}
    room = dict.fromkeys(kept, holdout.max_bytes)
    groups = _groups(kept)
    untouched = Counter(source for members in groups.values() for source in members)
    for _, members in sorted(groups.items()):
        size = {s: sum(kept[s][i][1] for i in rows) for s, rows in members.items()}
        shared = any(sources_with[kept[s][i][0]] > 1 for s, rows in members.items() for i in rows)
        wanted = any(masks[s].sum() < want[s] for s in members)
        if wanted and not shared and all(size[s] <= room[s] and untouched[s] > 1 for s in members):
            for s, rows in members.items():
                masks[s][rows] = True
                room[s] -= size[s]
                untouched[s] -= 1
    return masks


def tail(kept: Kept, source: str, holdout: Holdout) -> tuple[int, int] | None:
    """(document, bytes) of the tail to hold out of a source of which no whole document can be: of its largest document
    that stands by itself; None if none is large enough."""
    sources_with = _sources_with(kept)
    alone = [
        rows[0] for members in _groups(kept).values() if list(members) == [source] and len(rows := members[source]) == 1
    ]
    sizes = {i: kept[source][i][1] for i in alone if sources_with[kept[source][i][0]] == 1}
    largest = max(sizes, key=lambda i: (sizes[i], -i), default=None)
    if largest is None or sizes[largest] < 10 * LEAST_TAIL or holdout.max_bytes < LEAST_TAIL or not holdout.fraction:
        return None
    total = sum(size for _, size, _ in kept[source])
    wanted = max(LEAST_TAIL, round(holdout.fraction * total))
    return largest, min(wanted, holdout.max_bytes, sizes[largest] // 2)


def cut(row: dict[str, Any], size: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A document as its head and its tail of about `size` bytes, which begins after a line break or a space."""
    data = row["text"].encode()
    at = len(data) - size
    for mark in (b"\n", b" "):
        if (found := data.find(mark, at, at + size // 2)) >= 0:
            at = found + 1
            break
    while at < len(data) and data[at] & 0xC0 == 0x80:  # not within a character
        at += 1
    middle = row["start"] + at if row["stop"] - row["start"] == len(data) else -1
    known = middle >= 0
    head = row | {"text": data[:at].decode(), "start": row["start"] if known else -1, "stop": middle}
    identity = hashlib.sha256(f"{row['id']}\0tail".encode()).hexdigest()[:32]
    rest = {"id": identity, "text": data[at:].decode(), "start": middle, "stop": row["stop"] if known else -1}
    return head, row | rest


class Overlap:
    """Own held-out text against training text: copies, and runs of words that stand in both."""

    def __init__(self) -> None:
        self.copies: Counter[str] = Counter()
        """Training documents per held-out name that have the text of a held-out one."""
        self._texts: dict[bytes, str] = {}
        self._documents: dict[str, list[np.ndarray]] = {}
        self._keys = np.zeros(0, np.uint64)
        self._seen = np.zeros(0, bool)

    def hold(self, name: str, column: pa.Array) -> None:
        """Add held-out texts, before any training text is asked about."""
        for text in column.to_pylist():
            self._texts.setdefault(text_key(text), name)
            words = [w.word for w in ngrams.words(text, True)]
            self._documents.setdefault(name, []).append(np.unique(ngrams.keys(words, RUN)))

    def close(self) -> None:
        """All held-out text is added."""
        found = [keys for documents in self._documents.values() for keys in documents]
        self._keys = np.unique(np.concatenate([self._keys, *found]))
        self._seen = np.zeros(len(self._keys), bool)

    def copied(self, column: pa.Array) -> np.ndarray:
        """bool [n]: which texts are held out; they are counted."""
        if not self._texts:
            return np.zeros(len(column), dtype=bool)
        names = [self._texts.get(text_key(text)) for text in column.to_pylist()]
        self.copies.update(name for name in names if name is not None)
        return np.array([name is not None for name in names], dtype=bool)

    def meet(self, column: pa.Array) -> None:
        """Add training texts."""
        if not len(self._keys):
            return
        for row in np.flatnonzero(ngrams.flag(texts(column), True, RUN, self._keys)).tolist():
            words = [w.word for w in ngrams.words(column[row].as_py(), True)]
            self._seen[np.isin(self._keys, ngrams.keys(words, RUN))] = True

    def numbers(self, name: str) -> dict[str, int]:
        """Of a name: documents, those that share a run of `RUN` words with the training text, those of which half the
        runs or more are shared, those too short for a run, and training documents left out as copies."""
        shares = [
            float(self._seen[np.searchsorted(self._keys, keys)].mean()) if len(keys) else None
            for keys in self._documents.get(name, [])
        ]
        return {
            "documents": len(shares),
            "sharing": sum(share is not None and share > 0 for share in shares),
            "half": sum(share is not None and share >= 0.5 for share in shares),
            "short": sum(share is None for share in shares),
            "copies": self.copies[name],
        }


def _sources_with(kept: Kept) -> Counter[bytes]:
    """Text key -> sources it stands in."""
    return Counter(k for documents in kept.values() for k in {k for k, _, _ in documents})


def _groups(kept: Kept) -> dict[bytes, dict[str, list[int]]]:
    """Documents that must not be parted: smallest text key -> source -> indices. Linked by equal texts, and by a path
    under which each source has one document."""
    parent: dict[Any, Any] = {}

    def root(key: Any) -> Any:
        while parent.setdefault(key, key) != key:
            parent[key] = key = parent[parent[key]]
        return key

    for documents in kept.values():
        once = Counter(path for _, _, path in documents)
        for text, _, path in documents:
            if path and once[path] == 1:
                parent[root(("path", path))] = root(text)
            else:
                root(text)
    groups: dict[Any, dict[str, list[int]]] = {}
    names: dict[Any, bytes] = {}
    for source, documents in kept.items():
        for i, (text, _, _) in enumerate(documents):
            top = root(text)
            groups.setdefault(top, {}).setdefault(source, []).append(i)
            names[top] = min(text, names.get(top, text))
    return {names[top]: members for top, members in groups.items()}
