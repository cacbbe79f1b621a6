"""Sources and curation steps become documents on disk, once: read, judged, split, written whole, kept by content.

`cache/documents-<key>/` holds `<source>.<split>.parquet`, `ledger.json` and `quarantine.jsonl`. The key covers the
sources' fingerprints, every setting and the code that ran, so another recipe gets other documents and an equal one gets
these. It is built aside under a lock and renamed at the end: a crash or a full disk leaves nothing that looks finished.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from typing_extensions import TypedDict

from tilth.core import progress
from tilth.core.cache import once
from tilth.core.errors import DataError, remedy
from tilth.core.hashing import content_hash, file_hash, source_hash
from tilth.core.manifest import Entry, Manifest
from tilth.core.recipe import Data
from tilth.core.rundir import read_json, write_json
from tilth.core.technique import dump, use_name
from tilth.data.document import BATCH_BYTES, BATCH_DOCUMENTS, SCHEMA, Ledger, lost, text_key
from tilth.data.holdout import LEAST_TAIL, RUN, Kept, Overlap, cut, hold_out, tail

from . import document, holdout
from .engine import steps as steps_module
from .engine.steps import Signals
from .read import (
    charset,
    compression,
    cutting,
    fields,
    headers,
    http_message,
    hub_files,
    pieces,
    prescan,
    reading,
)
from .read import (
    files as finding,
)
from .read import (
    json_rows as json_reading,
)
from .read import (
    parquet_rows as parquet_reading,
)
from .read import (
    warc as warc_reading,
)
from .text import python as python_text

SPLITS = ("train", "held_out")
FOR_ENGINE = "It is for the engine, which does the text of a run before this."


class _Ledger(TypedDict):
    """ledger.json."""

    sources: dict[str, dict[str, Any]]
    files: dict[str, Entry]


class Documents:
    """Prepared documents in a directory. `ledger` maps each source to its books (see `Ledger.to_dict`), plus
    `train` and `held_out`: {"documents": n, "bytes": n}."""

    def __init__(self, dir: Path) -> None:
        """Open what `prepare` wrote. Raises DataError if a file is missing or of the wrong size."""
        self.dir = dir
        data = read_json(dir / "ledger.json", _Ledger)
        names = [f"{source}.{split}.parquet" for source in data["sources"] for split in SPLITS]
        names += [f"{name}.held_out.parquet" for name in data["held_out"] if name not in data["sources"]]
        self.key = content_hash([[name, data["files"][name]["sha256"]] for name in names])
        """Content of the documents: equal text gives an equal key, wherever and whenever it was read."""
        self.sources: list[str] = list(data["sources"])
        self.ledger: dict[str, dict[str, Any]] = data["sources"]
        self.held_out: dict[str, dict[str, Any]] = data["held_out"]
        """Own held-out text: documents, bytes, `overlap` (see `Overlap.numbers`)."""
        self.promises: list[str] = data["promises"]
        """What is said of sources of which no whole document could be held out."""
        self.notices: list[str] = data["notices"]
        """What steps said before anything was read."""
        for name, want in data["files"].items():
            path = dir / name
            if not path.is_file() or path.stat().st_size != want["bytes"]:
                raise DataError("this file is missing or cut short.", where=str(path), fix=f"Delete {dir}.")

    @property
    def domains(self) -> list[str]:
        """Names that may have held-out text: the sources, then own held-out text beside them."""
        return list(dict.fromkeys([*self.sources, *self.held_out]))

    def _file(self, source: str, split: str) -> pq.ParquetFile:
        if split not in SPLITS or source not in (self.ledger if split == "train" else self.domains):
            raise DataError(f"there is no split '{split}' of a source '{source}'.", where=str(self.dir))
        return pq.ParquetFile(self.dir / f"{source}.{split}.parquet")

    def read(self, source: str, split: str) -> Iterator[pa.RecordBatch]:
        """Documents of one source and split in their fixed order, in bounded batches of `SCHEMA`."""
        with self._file(source, split) as file:
            for group in range(file.num_row_groups):
                yield from file.read_row_group(group).to_batches()

    def texts(self, source: str, split: str, max_bytes: int | None = None) -> list[str]:
        """Texts of one source and split; with `max_bytes`, the first so many whose UTF-8 size stays within it."""
        out: list[str] = []
        left = float("inf") if max_bytes is None else max_bytes
        for batch in self.read(source, split):
            for text in batch.column("text").to_pylist():
                left -= len(text.encode())
                if left < 0:
                    return out
                out.append(text)
        return out

    def verify(self) -> int:
        """Compare every file with its checksum; how many there are. Raises DataError naming one that differs."""
        Manifest(self.dir).check(fix=f"Delete {self.dir}: the same command makes it again.")
        return len(Manifest(self.dir).files())

    def ids(self, split: str) -> set[str]:
        """Ids of all documents of a split, over all sources."""
        columns = [self._file(s, split).read(columns=["id"]).column("id").to_pylist() for s in self.sources]
        return {i for column in columns for i in column}


def prepare(data: Data, cache: Path, say: Callable[[str], None]) -> Documents:
    """Documents of `data`, from the cache or made now; `say` gets one line per source.

    Raises DataError, with nothing left behind, when a source is missing, unreadable or has nothing left.
    """
    key = documents_key(data)
    target = cache / f"documents-{key}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        built: list[Path] = []

        def make(aside: Path) -> None:
            _build(data, aside, key, say)
            built.append(aside)

        busy = "documents: another process is preparing them; waiting."
        documents = Documents(once(target, make, say, waiting=busy))
        for notice in () if built else documents.notices:
            say(notice)
    except OSError as err:
        where = str(err.filename or target)
        raise DataError(
            f"the documents cannot be written: {err.strerror or err}.", where=where, fix=remedy(err)
        ) from None
    for source in documents.sources:
        say(summary(source, documents.ledger[source]))
    for name, account in documents.held_out.items():
        say(summary_of_own(name, account))
    for promise in documents.promises:
        say(promise)
    return documents


def summary(source: str, account: dict[str, Any]) -> str:
    """One line: what was kept, held out, dropped and quarantined, with the commonest reasons."""
    line = f"{source}: {account['kept']:,} documents, {account['kept_bytes'] / 1e6:.1f} MB kept"
    line += f" ({account['held_out']['documents'] or 'none'} held out)"
    for what in ("dropped", "quarantined"):
        if account[what]:
            reasons = ", ".join(f"{reason} {n:,}" for reason, n in list(account[what].items())[:4])
            line += f"; {sum(account[what].values()):,} {what} ({reasons})"
    return "; ".join([line, *document.beside(account)])


_READERS = (
    charset, compression, cutting, document, fields, finding, headers, http_message,
    hub_files, json_reading, parquet_reading, pieces, prescan, python_text, reading, warc_reading,
)  # fmt: skip
"""Modules that decide what documents a source has."""


def summary_of_own(name: str, account: dict[str, Any]) -> str:
    """One line on own held-out text: how much, and how it overlaps with the training text."""
    found = account["overlap"]
    line = f"held_out.{name}: {account['documents']:,} documents, {account['bytes'] / 1e6:.1f} MB of your own; "
    line += f"{found['sharing']:,} share a run of {RUN} words with the training text"
    line += f" ({found['half']:,} of them half of their runs or more)" if found["sharing"] else ""
    line += f", {found['short']:,} are too short to tell" if found["short"] else ""
    if found["copies"]:
        line += f"; {found['copies']:,} training documents with the same text were left out"
    if account["quarantined"]:
        line += f"; {sum(account['quarantined'].values()):,} could not be read"
    if found["sharing"]:
        line += "; the step `decontaminate` would take the rest out of training"
    return line


def documents_key(data: Data) -> str:
    """What the documents of a corpus are cached by: the sources' fingerprints, the settings and the code."""
    configs = [*data.sources.values(), *data.held_out.values(), *data.steps]
    modules = sorted({type(c).__module__ for c in configs} | {__name__})
    code = source_hash(*(sys.modules[m] for m in modules), holdout, *_READERS)
    sources = [[name, dump(s), s.fingerprint()] for name, s in data.sources.items()]
    own = [[name, dump(s), s.fingerprint()] for name, s in data.held_out.items()]
    steps = [dump(step) for step in data.steps]
    reads = list(steps_module.fingerprints((use_name(step), step) for step in data.steps))
    return content_hash([sources, own, steps, reads, data.holdout.model_dump(), data.on_error, code])


class _Writer:
    """A Parquet file of documents whose row groups are bounded in rows and bytes, so that readers are too."""

    def __init__(self, path: Path) -> None:
        self._parquet = pq.ParquetWriter(path, SCHEMA, compression="zstd")
        self._waiting: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0

    def write(self, batch: pa.RecordBatch) -> None:
        self._waiting.append(batch)
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        if self._rows >= BATCH_DOCUMENTS or self._bytes >= BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._parquet.write_table(pa.Table.from_batches(self._waiting).combine_chunks())
        self._waiting, self._rows, self._bytes = [], 0, 0

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        if kind is None:
            self._flush()
        self._parquet.close()


def _build(data: Data, aside: Path, key: str, say: Callable[[str], None]) -> None:
    """Read and judge every source, then split. Two passes: what is held out depends on all that was kept."""
    steps = [(use_name(step), step.build()) for step in data.steps]
    steps_module.check(steps, ("document", "ordered"), FOR_ENGINE)
    notices = [f"{name}: {notice}" for name, step in steps for notice in steps_module.notices(step)]
    for notice in notices:
        say(notice)
    shared: dict[str, Any] = {}
    kept: Kept = {}
    overlap = Overlap()
    with Ledger(aside / "quarantine.jsonl", data.on_error) as ledger:
        own = {name: _hold_own(aside, name, source, ledger, overlap) for name, source in data.held_out.items()}
        overlap.close()
        for name, source in data.sources.items():
            kept[name] = []
            books = ledger.of(name)
            with _Writer(aside / f"{name}.parquet") as writer, progress.stage(f"reading {name}") as advance:
                for batch in source.read(books):
                    ledger.read(name, batch.num_rows)
                    batch = _without_copies(batch, overlap, ledger, name)
                    batch = _without_copies(judge(batch, steps, ledger, name, shared), overlap, ledger, name)
                    overlap.meet(batch.column("text"))
                    advance(batch.nbytes)
                    texts = batch.column("text").to_pylist()
                    sizes = [len(t.encode()) for t in texts]
                    kept[name] += zip(map(text_key, texts), sizes, batch.column("path").to_pylist(), strict=True)
                    ledger.keep(name, batch.num_rows, sum(sizes))
                    writer.write(batch)
            if not kept[name]:
                raise NothingLeft(name, ledger.to_dict()[name])
        ledger.check()
    chosen = hold_out({name: rows for name, rows in kept.items() if name not in own}, data.holdout)
    accounts, promises = ledger.to_dict(), []
    for name in data.sources:
        if name in own:
            accounts[name] |= _split(aside, name, np.zeros(len(kept[name]), bool), {}, own=True) | {
                "held_out": own[name]
            }
            continue
        tails: dict[int, int] = {}
        if data.holdout.fraction and not chosen[name].any():
            found = tail(kept, name, data.holdout)
            tails = dict([found]) if found else {}
            promises.append(_of_holdout(name, len(kept[name]), sum(n for _, n, _ in kept[name]), found))
        accounts[name] |= _split(aside, name, chosen[name], tails)
    for path in aside.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    files = {p.name: {"bytes": p.stat().st_size, "sha256": file_hash(p)} for p in sorted(aside.iterdir())}
    record = {
        "key": key,
        "sources": {name: accounts[name] for name in data.sources},
        "held_out": {
            name: own[name] | {"overlap": overlap.numbers(name), "quarantined": accounts[_own(name)]["quarantined"]}
            for name in own
        },
        "notices": notices,
        "promises": promises,
        "files": files,
    }
    write_json(aside / "ledger.json", record)


def _own(name: str) -> str:
    """What own held-out text is called in the books."""
    return f"held_out.{name}"


def _hold_own(aside: Path, name: str, source: Any, ledger: Ledger, overlap: Overlap) -> dict[str, int]:
    """Read own held-out text as it is; returns what there is. Raises DataError if there is none."""
    books, size, count = ledger.of(_own(name)), 0, 0
    with _Writer(aside / f"{name}.held_out.parquet") as writer:
        for batch in source.read(books):
            ledger.read(_own(name), batch.num_rows)
            here = pc.sum(pc.binary_length(batch.column("text"))).as_py() or 0
            ledger.keep(_own(name), batch.num_rows, here)
            overlap.hold(name, batch.column("text"))
            writer.write(batch)
            size, count = size + here, count + batch.num_rows
    if not count:
        raise NothingLeft(name, ledger.to_dict()[_own(name)], "held_out")
    return {"documents": count, "bytes": size}


def _without_copies(batch: pa.RecordBatch, overlap: Overlap, ledger: Ledger, name: str) -> pa.RecordBatch:
    copied = overlap.copied(batch.column("text"))
    if not copied.any():
        return batch
    for row in batch.filter(pa.array(copied)).select(["path", "text"]).to_pylist():
        ledger.drop(name, row["path"], "held out", row["text"])
    return batch.filter(pa.array(~copied))


def _of_holdout(name: str, documents: int, size: int, found: tuple[int, int] | None) -> str:
    """What is said of a source of which no whole document can be held out."""
    what = f"{name}: of {documents:,} document{'s' * (documents != 1)} ({size:,} bytes) none can be held out whole"
    if found:
        return f"{what}, so about the last {found[1]:,} bytes of the largest are"
    return (
        f"{what}, nor the tail of one (it takes {10 * LEAST_TAIL:,} bytes that stand in no other source): nothing of "
        f"it will be evaluated. More documents would work, or text of your own, data.held_out: {{{name}: {{use: "
        "files, …}}"
    )


def judge(
    batch: pa.RecordBatch, steps: list[tuple[str, Any]], ledger: Ledger, source: str, built: dict[str, Any]
) -> pa.RecordBatch:
    """Apply curation steps in order; what one drops, later ones do not see. `built`: see `Signals`."""
    signals = Signals(batch, built)
    for name, step in steps:
        if not signals.batch.num_rows:
            break
        verdicts = steps_module.judge(step, signals)
        for i in np.flatnonzero(~verdicts.keep):
            row = signals.batch.slice(int(i), 1).to_pylist()[0]
            ledger.drop(source, row["path"], verdicts.reason[i], row["text"], name)
        signals = steps_module.after(verdicts, signals)
    return signals.batch


def _split(
    aside: Path, name: str, held_out: np.ndarray, tails: dict[int, int], own: bool = False
) -> dict[str, dict[str, int]]:
    """Divide `<name>.parquet` into its two splits and remove it; returns what each holds.

    tails  document -> bytes of its end that are held out, the rest being trained on
    own    the held-out split is there already
    """
    whole = aside / f"{name}.parquet"
    splits = SPLITS[:1] if own else SPLITS
    counts = {split: {"documents": 0, "bytes": 0} for split in splits}
    with ExitStack() as stack:
        file = stack.enter_context(pq.ParquetFile(whole))
        writers = {split: stack.enter_context(_Writer(aside / f"{name}.{split}.parquet")) for split in splits}

        def write(split: str, part: pa.RecordBatch) -> None:
            counts[split]["documents"] += part.num_rows
            counts[split]["bytes"] += pc.sum(pc.binary_length(part.column("text"))).as_py() or 0
            writers[split].write(part)

        start = 0
        for group in range(file.num_row_groups):
            for batch in file.read_row_group(group).to_batches():
                mask = held_out[start : start + batch.num_rows]
                for row, size in ((r - start, n) for r, n in tails.items() if start <= r < start + batch.num_rows):
                    head, rest = cut(batch.slice(row, 1).to_pylist()[0], size)
                    write("held_out", pa.RecordBatch.from_pylist([rest], SCHEMA))
                    pieces = [batch.slice(0, row), pa.RecordBatch.from_pylist([head], SCHEMA), batch.slice(row + 1)]
                    batch = pa.Table.from_batches(pieces, SCHEMA).combine_chunks().to_batches()[0]
                start += batch.num_rows
                for split, where in (("train", ~mask), *([] if own else [("held_out", mask)])):
                    write(split, batch.filter(pa.array(where)))
    whole.unlink()
    return counts


class NothingLeft(DataError):
    """A source has no documents left; `account` is its books."""

    def __init__(self, name: str, account: dict[str, Any], field: str = "sources") -> None:
        self.name, self.account = name, account
        found = f"of {account['in']:,} documents, {lost(account)}" if account["in"] else "it holds no documents"
        judged = any(not reason.startswith("intake: ") for reason in account["by_step"])
        fix = "Loosen the step that dropped them, or name other files." if judged else "Name other files."
        super().__init__(f"nothing is left of this source: {found}.", where=f"data.{field}.{name}", fix=fix)

    def funnel(self) -> Iterator[str]:
        """What each step took, as lines."""
        left = self.account["in"]
        yield f"{self.name}: read {left:,} documents"
        quarantined = sum(self.account["quarantined"].values())
        for step, n in (("quarantined", quarantined), *self.account["by_step"].items()):
            if n:
                yield f"  {step}: {n:,} of {left:,} taken, {left - n:,} left"
                left -= n
