"""The Python standard library on this machine as text: real code and real English, with nothing to download.

Each module is one document. `part: code` is its source without docstrings, comments and other bare strings, laid out
as it was written; `part: prose` is what was taken out: docstrings without their doctests and comment blocks without
their markers or commented-out code. The two parts share no line, so they can serve as two domains. Modules that are
mostly literals (character tables, the compiled help topics) are dropped as data. Both parts come from one pass of
`tokenize`, so what counts as a comment is what Python says.

Fails when: the interpreter was installed without its library's source (a zip or byte code only).
"""

from __future__ import annotations

import ast
import inspect
import io
import json
import platform
import re
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tilth.core.config import Config as BaseConfig
from tilth.core.errors import DataError
from tilth.core.hashing import content_hash
from tilth.data.document import Document, SourceLedger, batches, document_id

if TYPE_CHECKING:
    import pyarrow as pa

CARD = {
    "title": "Python standard library",
    "paper": "",
    "claim": "About 8 MB of code and 2 MB of English prose are at hand wherever Python is, with no network.",
    "baseline": "",
    "check": "Stripped modules parse to the syntax tree of the original less its docstrings (test_sources.py).",
    "needs": [],
    "excludes": [],
}

_SKIP = {"site-packages", "dist-packages", "__pycache__", "_bundled", "lib-dynload", "lib2to3"}
_TESTS = {"test", "tests", "idle_test"}
_PRAGMA = re.compile(r"\s*(noqa|type:|pylint:|fmt:|pragma:|vim:|-\*-|!|(en)?coding[:=]|local variables:)", re.I)
_TABLE_SHARE, _TABLE_CHARS = 0.5, 10_000
_MIN_WORDS, _MIN_PROSE_CHARS = 4, 100


class Config(BaseConfig):
    """Which half of the library is read."""

    part: Literal["code", "prose"] = "code"
    """code: source without docstrings and comments; prose: the docstrings and comments."""
    tests: bool = False
    """Include the library's own test suite, which many distributions leave out (about 1.5 times more text)."""

    def _files(self) -> list[tuple[str, Path]]:
        root = Path(sysconfig.get_path("stdlib"))
        skip = _SKIP if self.tests else _SKIP | _TESTS
        found = [(p.relative_to(root), p) for p in root.rglob("*.py")]
        return sorted((r.as_posix(), p) for r, p in found if skip.isdisjoint(r.parts) and p.is_file())

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
        return batches(self._documents(ledger))

    def _documents(self, ledger: SourceLedger) -> Iterator[Document]:
        ledger = ledger.within(Path(sysconfig.get_path("stdlib")))
        for name, path in self._files():
            try:
                module = _Module(path.read_bytes())
            except (SyntaxError, ValueError, LookupError, MemoryError, RecursionError, OSError) as err:
                ledger.quarantine(name, "", f"not readable as Python {platform.python_version()}", str(err))
                continue
            text = module.code() if self.part == "code" else module.prose()
            if self.part == "code" and module.is_table:
                ledger.skip(name, "data table", text)
            elif self.part == "prose" and len(text) < _MIN_PROSE_CHARS:
                ledger.skip(name, "hardly any prose", text)
            elif not text.strip():
                ledger.skip(name, "no code")
            else:
                dotted = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
                metadata = json.dumps({"module": dotted, "python": platform.python_version(), "license": "PSF-2.0"})
                yield Document(document_id(name, text), text, ledger.source, name, metadata)


class _Module:
    """One pass over a module's tokens: which spans are prose, which lines lie inside strings. Rows count from 1."""

    def __init__(self, raw: bytes) -> None:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
        text = raw.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            ast.parse(text)
        self.lines = text.split("\n")
        self.inside: set[int] = set()  # rows that begin inside a string: their white space is content
        self.comments: list[tuple[int, int, str]] = []  # row, column, text with markers
        self.strings: list[tuple[tuple[int, int], tuple[int, int], str]] = []  # start, end, value
        self.only: set[int] = set()  # indices in `strings` that are all a block has: `pass` takes their place
        literals = total = 0
        blocks: list[list[int]] = [[0, -1]]  # per open block: statements, index of its first bare string
        logical: list[tokenize.TokenInfo] = []
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                self.comments.append((*token.start, token.string))
            elif token.type == tokenize.INDENT:
                blocks.append([0, -1])
            elif token.type == tokenize.DEDENT:
                statements, first = blocks.pop()
                if not statements:
                    self.only.add(first)
            elif token.type == tokenize.NEWLINE:
                literals, total = (
                    literals + self._statement(logical, blocks[-1]),
                    total + sum(len(t.string) for t in logical),
                )
                logical = []
            elif token.type not in (tokenize.NL, tokenize.ENDMARKER):
                logical.append(token)
                if token.start[0] != token.end[0]:
                    self.inside.update(range(token.start[0] + 1, token.end[0] + 1))
        self.is_table = total > _TABLE_CHARS and literals > _TABLE_SHARE * total

    def _statement(self, tokens: list[tokenize.TokenInfo], block: list[int]) -> int:
        """Book one logical line; returns how many of its characters are literals."""
        if all(t.type == tokenize.STRING for t in tokens):
            value = ast.literal_eval(" ".join(t.string for t in tokens)) if not _formatted(tokens) else None
            if isinstance(value, str):
                block[1] = len(self.strings) if block[1] < 0 else block[1]
                self.strings.append((tokens[0].start, tokens[-1].end, value))
                return 0
        block[0] += 1
        return sum(len(t.string) for t in tokens if t.type in (tokenize.STRING, tokenize.NUMBER))

    def code(self) -> str:
        """The source without comments and bare strings; its syntax tree is otherwise the same."""
        lines: list[str | None] = ["", *self.lines]
        for row, column, _ in self.comments:
            kept = self.lines[row - 1][:column].rstrip()
            lines[row] = kept or None
        for i, ((row, column), (last, end), _) in enumerate(self.strings):
            before, after = self.lines[row - 1][:column], (lines[last] or "")[end:]
            lines[row : last + 1] = [None] * (last + 1 - row)
            kept = before + ("pass" if i in self.only else "") + after
            lines[row] = kept if kept.strip() else None
        out: list[str] = []
        for row, line in enumerate(lines[1:], 1):
            if line is None:
                continue
            blank = not line.strip() and row not in self.inside
            if blank and (not out or out[-1].endswith(":") or out[-2:] == ["", ""]):
                continue  # the gap that a docstring or comment left
            out.append("" if blank else line)
        return "\n".join(out).strip("\n") + "\n" if any(out) else ""

    def prose(self) -> str:
        """Docstrings and comment blocks in the order of the file, separated by blank lines."""
        pieces = [(start[0], _without_doctests(inspect.cleandoc(value))) for start, _, value in self.strings]
        pieces += [(row, text) for row, text in self._comment_blocks() if not _is_code(text)]
        return "\n\n".join(t for _, t in sorted(pieces) if len(t.split()) >= _MIN_WORDS) + "\n"

    def _comment_blocks(self) -> Iterator[tuple[int, str]]:
        """Comments on consecutive rows in one column, joined; markers, rulers and tool directives removed."""
        block: list[str] = []
        start, previous = 0, (-1, -1)
        for row, column, text in [*self.comments, (-1, -1, "")]:
            if (row - 1, column) != previous:
                if block:
                    yield start, inspect.cleandoc("\n" + "\n".join(block))
                block, start = [], row
            previous = (row, column)
            bare = text.lstrip("#:").rstrip("# ")
            if not _PRAGMA.match(bare):
                block.append(bare if any(c.isalpha() for c in bare) else "")


def _formatted(tokens: list[tokenize.TokenInfo]) -> bool:
    return any("f" in t.string[: t.string.find(t.string[-1])].lower() for t in tokens)


def _without_doctests(text: str) -> str:
    """Drop `>>>` examples and their output, which ends at the next blank line."""
    out: list[str] = []
    example = False
    for line in text.split("\n"):
        example = line.lstrip().startswith(">>>") or (example and bool(line.strip()))
        if not example and (line.strip() or (out and out[-1])):
            out.append(line.rstrip())
    return "\n".join(out).strip()


def _is_code(text: str) -> bool:
    """Whether a comment is commented-out code, i.e. parses as Python (English of a few words does not)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree: Any = ast.parse(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return bool(tree.body)
