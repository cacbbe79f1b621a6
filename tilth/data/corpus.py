"""Sources and curation steps become documents on disk, once: read, judged, split, written whole, kept by content.

`cache/documents-<key>/` holds `<source>.<split>.parquet`, `ledger.json` and `quarantine.jsonl`. The key covers the
sources' fingerprints, every setting and the code that ran, so another recipe gets other documents and an equal one gets
these. It is built aside under a lock and renamed at the end: a crash or a full disk leaves nothing that looks finished.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from typing_extensions import TypedDict

from tilth.core.errors import DataError
from tilth.core.hashing import content_hash, file_hash, source_hash
from tilth.core.locking import locked
from tilth.core.manifest import Entry, Manifest, intact, seal
from tilth.core.recipe import Corpus, Holdout
from tilth.core.rundir import read_json, sweep, whole_dir, write_json
from tilth.core.technique import dump, use_name
from tilth.data import document, finding, python_text, reading
from tilth.data.curate import steps as steps_module
from tilth.data.curate.steps import Signals
from tilth.data.document import BATCH_BYTES, BATCH_DOCUMENTS, SCHEMA, Ledger, text_key

SPLITS = ("train", "held_out")
_FOR_ENGINE = "It is for `tilth data run`, whose result the source `curated` reads."


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
        self.key = content_hash([[name, data["files"][name]["sha256"]] for name in names])
        """Content of the documents: equal text gives an equal key, wherever and whenever it was read."""
        self.sources: list[str] = list(data["sources"])
        self.ledger: dict[str, dict[str, Any]] = data["sources"]
        self.notices: list[str] = data["notices"]
        """What steps said before anything was read."""
        for name, want in data["files"].items():
            path = dir / name
            if not path.is_file() or path.stat().st_size != want["bytes"]:
                raise DataError("this file is missing or cut short.", where=str(path), fix=f"Delete {dir}.")

    def _file(self, source: str, split: str) -> pq.ParquetFile:
        if source not in self.ledger or split not in SPLITS:
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


def prepare(corpus: Corpus, cache: Path, say: Callable[[str], None]) -> Documents:
    """Documents of `corpus`, from the cache or made now; `say` gets one line per source.

    Raises DataError, with nothing left behind, when a source is missing, unreadable or has nothing left.
    """
    key = _key(corpus)
    target = cache / f"documents-{key}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        sweep(cache)
        busy = partial(say, "documents: another process is preparing them; waiting.")
        with locked(cache / f".documents-{key}.lock", waiting=busy):
            documents = _cached(target, say)
            for notice in documents.notices if documents is not None else ():
                say(notice)
            if documents is None:
                with whole_dir(target) as aside:
                    _build(corpus, aside, key, say)
                    seal(aside)
                documents = Documents(target)
    except OSError as err:
        where = str(err.filename or target)
        raise DataError(f"the documents cannot be written: {err.strerror or err}.", where=where) from None
    for source in documents.sources:
        say(summary(source, documents.ledger[source]))
    return documents


def summary(source: str, account: dict[str, Any]) -> str:
    """One line: what was kept, held out, dropped and quarantined, with the commonest reasons."""
    line = f"{source}: {account['kept']:,} documents, {account['kept_bytes'] / 1e6:.1f} MB kept"
    line += f" ({account['held_out']['documents'] or 'none'} held out)"
    for what in ("dropped", "quarantined"):
        if account[what]:
            reasons = ", ".join(f"{reason} {n:,}" for reason, n in list(account[what].items())[:4])
            line += f"; {sum(account[what].values()):,} {what} ({reasons})"
    return line


def _key(corpus: Corpus) -> str:
    configs = [*corpus.sources.values(), *corpus.curate]
    modules = sorted({type(c).__module__ for c in configs} | {__name__})
    code = source_hash(*(sys.modules[m] for m in modules), document, finding, python_text, reading)
    sources = [[name, dump(s), s.fingerprint()] for name, s in corpus.sources.items()]  # type: ignore[attr-defined]
    steps = [dump(step) for step in corpus.curate]
    reads = list(steps_module.fingerprints((use_name(step), step) for step in corpus.curate))
    return content_hash([sources, steps, reads, corpus.holdout.model_dump(), corpus.on_error, code])


def _cached(target: Path, say: Callable[[str], None]) -> Documents | None:
    return Documents(target) if intact(target, say) else None


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


def _build(corpus: Corpus, aside: Path, key: str, say: Callable[[str], None]) -> None:
    """Read and judge every source, then split. Two passes: what is held out depends on all that was kept."""
    built = [(use_name(step), step.build()) for step in corpus.curate]  # type: ignore[attr-defined]
    steps_module.check(
        built, ("document", "ordered"), "It is for `tilth data run`, whose result the source `curated` reads."
    )
    steps = [step for _, step in built]
    notices = [f"{name}: {notice}" for name, step in built for notice in steps_module.notices(step)]
    for notice in notices:
        say(notice)
    shared: dict[str, Any] = {}
    kept: dict[str, list[tuple[bytes, int, str]]] = {}
    with Ledger(aside / "quarantine.jsonl", corpus.on_error) as ledger:
        for name, source in corpus.sources.items():
            kept[name] = []
            books = ledger.of(name)
            with _Writer(aside / f"{name}.parquet") as writer:
                for batch in source.read(books):  # type: ignore[attr-defined]
                    ledger.read(name, batch.num_rows)
                    batch = judge(batch, steps, ledger, name, shared)
                    texts = batch.column("text").to_pylist()
                    sizes = [len(t.encode()) for t in texts]
                    kept[name] += zip(map(text_key, texts), sizes, batch.column("path").to_pylist(), strict=True)
                    ledger.keep(name, batch.num_rows, sum(sizes))
                    writer.write(batch)
            if not kept[name]:
                raise _nothing_left(name, ledger.to_dict()[name])
        ledger.check()
    chosen = hold_out(kept, corpus.holdout)
    accounts = ledger.to_dict()
    for name in corpus.sources:
        accounts[name] |= _split(aside, name, chosen[name])
    for path in aside.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    files = {p.name: {"bytes": p.stat().st_size, "sha256": file_hash(p)} for p in sorted(aside.iterdir())}
    write_json(aside / "ledger.json", {"key": key, "sources": accounts, "notices": notices, "files": files})


def judge(
    batch: pa.RecordBatch, steps: list[Any], ledger: Ledger, source: str, built: dict[str, Any]
) -> pa.RecordBatch:
    """Apply curation steps in order; what one drops, later ones do not see. `built`: see `Signals`."""
    signals = Signals(batch, built)
    for step in steps:
        if not signals.batch.num_rows:
            break
        verdicts = steps_module.judge(step, signals)
        for i in np.flatnonzero(~verdicts.keep):
            row = signals.batch.slice(int(i), 1).to_pylist()[0]
            ledger.drop(source, row["path"], verdicts.reason[i], row["text"])
        signals = steps_module.after(verdicts, signals)
    return signals.batch


def hold_out(kept: dict[str, list[tuple[bytes, int, str]]], holdout: Holdout) -> dict[str, np.ndarray]:
    """Choose held-out documents per source: those whose text hashes smallest, a set that hardly moves when documents
    are added. `kept` maps a source to (text_key, bytes, path) per document; returns bool [documents] per source.

    What belongs together goes to one side together: equal texts, and the documents that several sources made of one
    file (the code and the prose of a module). A text that stands in several sources is never chosen. Some text always
    stays for training; the share is at least one document where two differ.
    """
    sources_with = Counter(k for documents in kept.values() for k in {k for k, _, _ in documents})
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


def _groups(kept: dict[str, list[tuple[bytes, int, str]]]) -> dict[bytes, dict[str, list[int]]]:
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


def _split(aside: Path, name: str, held_out: np.ndarray) -> dict[str, dict[str, int]]:
    """Divide `<name>.parquet` into its two splits and remove it; returns what each holds."""
    whole = aside / f"{name}.parquet"
    counts = {split: {"documents": 0, "bytes": 0} for split in SPLITS}
    start = 0
    with (
        pq.ParquetFile(whole) as file,
        _Writer(aside / f"{name}.train.parquet") as train,
        _Writer(aside / f"{name}.held_out.parquet") as held,
    ):
        for group in range(file.num_row_groups):
            for batch in file.read_row_group(group).to_batches():
                mask = held_out[start : start + batch.num_rows]
                start += batch.num_rows
                for split, writer, where in (("train", train, ~mask), ("held_out", held, mask)):
                    part = batch.filter(pa.array(where))
                    counts[split]["documents"] += part.num_rows
                    counts[split]["bytes"] += pc.sum(pc.binary_length(part.column("text"))).as_py() or 0
                    writer.write(part)
    whole.unlink()
    return counts


def _nothing_left(name: str, account: dict[str, Any]) -> DataError:
    why = [f"{n:,} {what} as {r}" for what in ("dropped", "quarantined") for r, n in account[what].items()]
    found = f"of {account['in']:,} documents, " + ", ".join(why) if account["in"] else "it holds no documents"
    return DataError(
        f"nothing is left of this source: {found}.",
        where=f"corpus.sources.{name}",
        fix="Loosen the step that dropped them, or name other files." if account["dropped"] else "",
    )
