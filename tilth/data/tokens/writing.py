"""Tokens of a run's documents: each part by a task of its own, then one store of all, in order.

A part's task writes its documents' tokens as a store (`tilth.data.tokens.store`), packed if the recipe says so, and
what both ways of packing cost. Assembling copies the parts one behind the other, so the result is the same bytes for
any number of workers, and needs no more memory than one piece of a part.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from tilth.core.errors import DataError
from tilth.core.hashing import content_hash
from tilth.core.manifest import seal
from tilth.core.rundir import read_json, write_json
from tilth.data.across.files import read, sound
from tilth.data.across.tasks import DataTask, faults

from . import packing
from .packing import Cost, CostRow, bfd_cost, concat_cost
from .store import Framing, Packed, StoreWriter, TokenStore, separators, tell_specials
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from tilth.data.engine.recipe import Pack, Tokens

STORE, TOKENIZER, COSTS = "store", "tokenizer", "packing.json"


def make(
    config: Tokens, dir: Path, do: Callable[[str, list[DataTask]], list[DataTask]], say: Callable[[str], None]
) -> None:
    """The tokens of a run's documents, in `dir/tokens`: `store/`, `tokenizer/` and `packing.json`, the cost of both
    ways to pack.

    do   does tasks: their name, the tasks
    Raises DataError if there are no documents, or if the tokenizer cannot be had or fails.
    """
    target, pieces = dir / "tokens", dir / "tokens-parts"
    parts = sorted((dir / "documents" / config.tier).glob("part-*.parquet"))
    if not target.is_dir():
        documents = _Documents(parts, content_hash(read_json(dir / "identity.json")))
        tokenizer: Path = config.tokenizer.prepare(documents, dir, say)
        if tokenizer.is_relative_to(dir):  # made for this run, perhaps by an attempt before
            if faults(tokenizer):
                shutil.rmtree(tokenizer)
                tokenizer = config.tokenizer.prepare(documents, dir, say)
            seal(tokenizer)
        loaded = _loaded(tokenizer)
        head, tail, _ = separators(loaded)
        framed = " + ".join([*(f"token {t}" for t in head), "text", *(f"token {t}" for t in tail)])
        say(f"tokens: a vocabulary of {loaded.vocab_size:,}; a document is {framed}")
        done = do("tokens", tasks(parts, tokenizer, pieces, config.pack))
        do("one store", [DataTask(target, partial(assemble, [task.target for task in done], tokenizer, config.pack))])
    for leftover in (pieces, *dir.glob("tokenizer-*")):  # the result has its own copy
        shutil.rmtree(leftover, ignore_errors=True)
    if said := tell_specials(TokenStore.open(target / STORE).specials, _loaded(target / TOKENIZER)):
        say(said)
    for cost in costs(target):
        say(str(cost))


def tasks(parts: Sequence[Path], tokenizer: Path, out: Path, pack: Pack) -> list[DataTask]:
    """A task per Parquet file of documents (columns id, text): its tokens, in `out/<number>`."""
    sizes = [part.stat().st_size for part in parts]
    make = [partial(make_part, part, tokenizer, pack.how, pack.sequence, pack.seed) for part in parts]
    return [DataTask(out / f"{i:06d}", m, size) for i, (m, size) in enumerate(zip(make, sizes, strict=True))]


def make_part(part: Path, tokenizer: Path, how: str, sequence: int, seed: int, aside: Path) -> None:
    """Write the store of one file's documents and its costs into `aside`, on one thread."""
    loaded = _loaded(tokenizer)
    framing = Framing(loaded)
    stream = aside / ("stream" if how == "bfd" else STORE)
    writer = framing.writer(stream)
    for batch in read(part, ["id", "text"]):
        framing.add(writer, batch, threads=1)
    writer.close()
    store = TokenStore.open(stream)
    found = [concat_cost(store.offsets, sequence)]
    if how == "bfd":
        pad = loaded.eos_id if loaded.eos_id is not None else 0
        packed = Packed(sequence, pad if framing.closed else None)
        found.append(packing.pack(store, aside / STORE, packed, pad, seed))
        shutil.rmtree(stream)
    else:
        found.append(bfd_cost(store.offsets, sequence))
    write_json(aside / COSTS, [cost.to_dict() for cost in found])


def assemble(parts: Sequence[Path], tokenizer: Path, pack: Pack, aside: Path) -> None:
    """One store of the parts' stores in order, their costs added up, and the tokenizer, into `aside`.

    Raises DataError if there are no parts, or one is damaged.
    """
    if not parts:
        raise DataError("there are no documents to tokenise.", where=str(aside))
    loaded = _loaded(tokenizer)
    head, _, closed = separators(loaded)
    packed = Packed(pack.sequence, int(head[0]) if closed else None) if pack.how == "bfd" else None
    writer = StoreWriter(aside / STORE, loaded.vocab_size, loaded.fingerprint, closed, packed=packed)
    total: dict[str, Cost] = {}
    for part in parts:
        writer.copy(TokenStore.open(part / STORE))
        for cost in costs(part):
            total[cost.how] = total[cost.how] + cost if cost.how in total else cost
    writer.close()
    if packed is None:  # the parts' tails are in sequences now
        total["concat"] = concat_cost(TokenStore.open(aside / STORE).offsets, pack.sequence)
    write_json(aside / COSTS, [cost.to_dict() for cost in total.values()])
    loaded.save(aside / TOKENIZER)


def costs(path: Path) -> list[Cost]:
    """What both ways of packing cost, of a part or of the whole. For the way that was not taken, and for bfd, every
    part is packed by itself."""
    return [Cost.from_dict(row) for row in read_json(sound(path / COSTS), list[CostRow])]


class _Documents:
    """The documents as a tokenizer that is trained on them reads them."""

    sources = ("documents",)

    def __init__(self, parts: Sequence[Path], key: str) -> None:
        self._parts, self.key = parts, key

    def read(self, source: str, split: str) -> Iterator[pa.RecordBatch]:
        for part in self._parts if split == "train" else ():
            yield from read(part, ["id", "text"])


@functools.lru_cache(maxsize=2)
def _loaded(path: Path) -> Tokenizer:
    return Tokenizer.load(path)
