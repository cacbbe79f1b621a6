"""A Python module taken apart into code and prose, by one pass of `tokenize`: a comment is what Python says it is."""

from __future__ import annotations

import ast
import inspect
import io
import re
import tokenize
import warnings
from collections.abc import Iterator

_PRAGMA = re.compile(r"\s*(noqa|type:|pylint:|fmt:|pragma:|vim:|-\*-|!|(en)?coding[:=]|local variables:)", re.I)
_MIN_WORDS = 4
"""Shorter comments and docstrings ("TODO", "See above.") are no prose."""


class Module:
    """One module. `code()` and `prose()` share no line; `literals` is the share of the code that is literals, in
    characters, and `size` the characters of its tokens. Rows count from 1.

    Raises SyntaxError, UnicodeDecodeError, LookupError, ValueError, MemoryError or RecursionError for bytes that this
    Python cannot read.
    """

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
        self.size, self.literals = total, literals / max(1, total)

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
            tree = ast.parse(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return bool(tree.body)
