"""Union-find over the ranks of documents, the keeper of each set, and leader clustering: plain and compiled."""

from __future__ import annotations

import ctypes
import functools
import logging
from pathlib import Path

import numpy as np

from tilth.core.native import Unavailable, load

from .buffers import pointer

log = logging.getLogger(__name__)


def unite(parent: np.ndarray, links: np.ndarray) -> None:
    """Unite the ends of links int64 [m, 2] in parent int64 [n], which starts as arange(n).

    The root of a set is its least member, whatever the order of the links.
    """
    if library := _library():
        library.unite(pointer(parent), pointer(np.ascontiguousarray(links, np.int64)), ctypes.c_int64(len(links)))
        return

    def root(x: int) -> int:
        while parent[x] != x:
            parent[x] = x = parent[parent[x]]
        return int(x)

    for a, b in links.tolist():
        a, b = root(a), root(b)
        if a != b:
            parent[max(a, b)] = min(a, b)


def flatten(parent: np.ndarray) -> None:
    """Let every member point to its root itself."""
    if library := _library():
        library.flatten(pointer(parent), ctypes.c_int64(len(parent)))
        return
    for i in range(len(parent)):
        parent[i] = parent[parent[i]]


def keepers(
    roots: np.ndarray, begin: int, order: np.ndarray, size: np.ndarray, keeper: np.ndarray, best: np.ndarray
) -> None:
    """Count the ranks from `begin` on that `order` uint64 [n, 2] belongs to, and find each root's best one.

    The least (order[0], order[1], rank) is the keeper. size int64 [all] starts as 0, keeper int64 [all] as -1; best
    uint64 [all, 2] is scratch.
    """
    if library := _library():
        order = np.ascontiguousarray(order, np.uint64)
        where = ctypes.c_int64(begin), ctypes.c_int64(len(order))
        library.keepers(pointer(roots), *where, *map(pointer, (order, size, keeper, best)))
        return
    for i, mine in enumerate(order.tolist(), begin):
        root = roots[i]
        size[root] += 1
        if keeper[root] < 0 or mine < best[root].tolist():
            keeper[root], best[root] = i, mine


def split(keys: np.ndarray, brief: np.ndarray, enough: int, crowd: int = 64) -> np.ndarray:
    """int64 [n]: of n documents, best first, the place of the leader each one belongs to (its own if it is one).

    A document joins the first leader that shares a key with it (keys uint64 [n, k]) and whose signature brief uint16
    [n, functions] agrees with its own in `enough` places; else it becomes a leader. So every document that is no leader
    is alike to its leader itself, not by way of others. A key remembers `crowd` leaders, so that cost is linear.
    """
    leader = np.arange(len(keys), dtype=np.int64)
    if library := _library():
        keys, brief = np.ascontiguousarray(keys, np.uint64), np.ascontiguousarray(brief, np.uint16)
        numbers = [ctypes.c_int(x) for x in (brief.shape[1], enough, crowd)]
        library.split(
            ctypes.c_int64(len(keys)),
            pointer(keys),
            ctypes.c_int(keys.shape[1]),
            pointer(brief),
            *numbers,
            pointer(leader),
        )
        return leader
    known: dict[int, list[int]] = {}
    for i, mine in enumerate(keys.tolist()):
        for other in sorted({o for key in mine for o in known.get(key, ())}):
            if np.count_nonzero(brief[i] == brief[other]) >= enough:
                leader[i] = other
                break
        else:
            for key in mine:
                if len(bucket := known.setdefault(key, [])) < crowd:
                    bucket.append(i)
    return leader


@functools.cache
def _library() -> ctypes.CDLL | None:
    try:
        return load(Path(__file__).parent / "clusters.cpp")
    except Unavailable as reason:
        log.warning("clusters are found in plain Python, some hundred times slower: %s", reason)
        return None
