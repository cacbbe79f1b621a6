"""The Python standard library on this machine as text: real code and real English, with nothing to download.

Each module is one document. `part: code` is its source without docstrings, comments and other bare strings, laid out
as it was written; `part: prose` is what was taken out: docstrings without their doctests and comment blocks without
their markers or commented-out code. The two parts share no line, so they can serve as two domains. Modules that are
mostly literals (character tables, the compiled help topics) are dropped as data. Both parts come from one pass of
`tokenize`, so what counts as a comment is what Python says.

Fails when: the interpreter was installed without its library's source (a zip or byte code only).
"""

from __future__ import annotations

import json
import os
import platform
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tilth.core.config import Config as BaseConfig
from tilth.core.errors import DataError
from tilth.core.hashing import content_hash
from tilth.data.document import Document, SourceLedger, batches, document_id
from tilth.data.read.probing import Probe, places
from tilth.data.text.python import Module

if TYPE_CHECKING:
    import pyarrow as pa

CARD = {
    "title": "Python standard library",
    "claim": "About 8 MB of code and 2 MB of English prose are at hand wherever Python is, with no network.",
    "check": "Stripped modules parse to the syntax tree of the original less its docstrings (test_sources.py).",
}

_SKIP = {"site-packages", "dist-packages", "__pycache__", "_bundled", "lib-dynload", "lib2to3"}
_TESTS = {"test", "tests", "idle_test"}
_TABLE_SHARE, _TABLE_CHARS = 0.5, 2_000
_MIN_PROSE_CHARS = 100
_PROBES = 16


class Config(BaseConfig):
    """Which half of the library is read."""

    part: Literal["code", "prose"] = "code"
    """code: source without docstrings and comments; prose: the docstrings and comments."""
    tests: bool = False
    """Include the library's own test suite, which many distributions leave out (about 1.5 times more text)."""

    def _files(self) -> list[tuple[str, Path]]:
        root = Path(sysconfig.get_path("stdlib"))
        skip = _SKIP if self.tests else _SKIP | _TESTS
        found = []
        for folder, folders, files in os.walk(root):
            folders[:] = [f for f in folders if f not in skip]
            paths = [Path(folder, f) for f in files if f.endswith(".py")]
            found += [(p.relative_to(root).as_posix(), p) for p in paths if p.is_file()]
        return sorted(found)

    def fingerprint(self) -> str:
        """Python version, file names and sizes. Raises DataError if there is no source."""
        files = self._files()
        if not files:
            raise DataError(
                "this Python came without the source of its standard library.",
                where=sysconfig.get_path("stdlib"),
                fix="Install the full Python package, or use `use: files` with a folder of your own.",
            )
        return content_hash([platform.python_version(), [(name, path.stat().st_size) for name, path in files]])

    def read(self, ledger: SourceLedger) -> Iterator[pa.RecordBatch]:
        """One document per module, in the order of paths."""
        return batches(self._documents(ledger, self._files()))

    def probes(self, ledger: SourceLedger, max_bytes: int) -> Iterator[Probe]:
        """Some modules, spread evenly over all bytes; parsing them takes the time, so they are few."""
        files = self._files()
        sizes = [path.stat().st_size for _, path in files]
        for which, inside in places(sizes, _PROBES).items():
            yield batches(self._documents(ledger, [files[which]])), sizes[which] / sum(sizes), len(inside)

    def _documents(self, ledger: SourceLedger, files: list[tuple[str, Path]]) -> Iterator[Document]:
        ledger = ledger.within(Path(sysconfig.get_path("stdlib")))
        for name, path in files:
            try:
                module = Module(path.read_bytes())
            except (SyntaxError, ValueError, LookupError, MemoryError, RecursionError, OSError) as err:
                ledger.quarantine(name, "", f"not readable as Python {platform.python_version()}", str(err))
                continue
            text = module.code() if self.part == "code" else module.prose()
            if self.part == "code" and module.size > _TABLE_CHARS and module.literals > _TABLE_SHARE:
                ledger.skip(name, "data table", text)
            elif self.part == "prose" and len(text) < _MIN_PROSE_CHARS:
                ledger.skip(name, "hardly any prose", text)
            elif not text.strip():
                ledger.skip(name, "no code")
            else:
                dotted = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
                metadata = json.dumps({"module": dotted, "python": platform.python_version(), "license": "PSF-2.0"})
                yield Document(document_id(ledger.source, name, text), text, ledger.source, name, metadata)
