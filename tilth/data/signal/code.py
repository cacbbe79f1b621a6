"""What StarCoder, RedPajama-v1 and Curator ask of a source file: its lines, its characters, its comments, its markup.

After Li et al. 2023 (arXiv:2305.06161), RedPajama-v1's GitHub filter and NeMo Curator's code filters. Comments are
counted with their markers, by the file's extension, after strings are passed over (a scanner, no parser); docstrings of
Python count as comments. Visible HTML is what stands outside tags, comments, scripts and styles.

Fails when: the extension says nothing about the content, or a language has strings of a kind of its own (heredocs).
"""

from __future__ import annotations

import json
import re
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa

from tilth.core.config import Config as BaseConfig
from tilth.data.native import shape

CARD = {
    "title": "Signals of source code",
    "paper": "arXiv:2305.06161",
    "claim": "The measures that tell written code from generated, minified and misnamed files.",
    "check": "Counts by hand and on arbitrary text; comments as Python's own tokenizer finds them "
    "(tests/data/signal/test_code_signals.py).",
}

KNOBS = {"name_field": "name"}

_STRINGS = r"\"(?:\\.|[^\"\\\n])*\"?|'(?:\\.|[^'\\\n])*'?"
_SLASH = r"(//[^\n]*|/\*.*?(?:\*/|\Z))|"
_HASH = r"(#[^\n]*)|"
_SYNTAX = {
    "slash": _SLASH + _STRINGS,
    "backtick": _SLASH + _STRINGS + r"|`(?:\\.|[^`\\])*`?",
    "tick": _SLASH + r"\"(?:\\.|[^\"\\])*\"?",  # Rust: ' begins a lifetime
    "hash": _HASH + _STRINGS,
    "both": r"(#[^\n]*|//[^\n]*|/\*.*?(?:\*/|\Z))|" + _STRINGS,
    "python": r"(#[^\n]*|(?<![=(\[{,])\"{3}.*?(?:\"{3}|\Z)|(?<![=(\[{,])'{3}.*?(?:'{3}|\Z))|" + _STRINGS,
    "dash": r"(--\[\[.*?(?:\]\]|\Z)|--[^\n]*|/\*.*?(?:\*/|\Z))|" + _STRINGS,
    "haskell": r"(\{-.*?(?:-\}|\Z)|--[^\n]*)|\"(?:\\.|[^\"\\\n])*\"?",
    "markup": r"(<!--.*?(?:-->|\Z))",
    "percent": r"((?<!\\)%[^\n]*)",
    "semicolon": r"(;[^\n]*)|\"(?:\\.|[^\"\\])*\"?",
    "bang": r"(![^\n]*)|" + _STRINGS,
    "style": r"(/\*.*?(?:\*/|\Z))|" + _STRINGS,
}
_OF = {
    "slash": "c h cc cpp cxx c++ hpp hh hxx cu cuh java cs swift kt kts scala m mm dart proto groovy v sv",
    "backtick": "js jsx ts tsx mjs cjs go",
    "tick": "rs",
    "hash": "sh bash zsh rb pl pm r jl yaml yml toml tcl cmake mk makefile dockerfile ps1 ex exs nix",
    "both": "php tf hcl",
    "python": "py pyi pyx",
    "dash": "sql lua adb ads",
    "haskell": "hs elm",
    "markup": "html htm xml svg vue md markdown",
    "percent": "tex sty cls erl",
    "semicolon": "lisp lsp cl el clj scm rkt asm s ll",
    "bang": "f90 f95 f03 f08",
    "style": "css scss less",
}
_SYNTAX_OF = {extension: re.compile(_SYNTAX[name], re.S) for name, all_ in _OF.items() for extension in all_.split()}
_HTML = ("html", "htm", "xhtml")
_INVISIBLE = re.compile(
    r"<!--.*?(?:-->|\Z)|<(script|style)\b[^>]*>.*?(?:</\1\s*>|\Z)|<[a-zA-Z/!?][^>]*(?:>|\Z)", re.S | re.I
)


class Config(BaseConfig):
    """Where the file's name stands."""

    name_field: str | None = None
    """Field of the metadata with the file's path or name; null: the path the document was read from."""

    def columns(self) -> dict[str, str]:
        """The measures."""
        return {
            "code_chars": "characters",
            "code_lines": "lines: line ends plus one",
            "code_max_line": "characters of the longest line",
            "code_mean_line": "characters per line, without line ends",
            "code_alnum": "share of characters that are letters or digits; null for no text",
            "code_alpha": "share of characters that are letters; null for no text",
            "code_digits": "share of characters that are decimal digits; null for no text",
            "code_comments": "share of characters in comments; null for extensions without known comments, or no text",
            "code_xml_header": "whether <?xml version= stands in the first 100 characters",
            "code_html_visible": "share of characters of HTML that is shown; null for other files",
            "code_html_visible_chars": "characters of HTML that are shown; null for other files",
            "code_extension": "the file's extension in lower case, or its name where it has none",
        }

    def build(self) -> Signals:
        """The measure, which has no memory."""
        return Signals(self.name_field)


class Signals:
    """Measures the files of a batch."""

    def __init__(self, name_field: str | None) -> None:
        self._field = name_field

    def compute(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        """int64, float64, bool and string columns."""
        counts = shape.counts(batch.column("text"))
        chars, lines = counts["chars"], counts["lines"]
        comments, visible = np.full(len(chars), np.nan), np.full(len(chars), np.nan)
        header = np.zeros(len(chars), dtype=bool)
        extensions = [extension(name) for name in self._names(batch)]
        for i, text in enumerate(batch.column("text").to_pylist()):
            header[i] = "<?xml version=" in text[:100]
            if text and (syntax := _SYNTAX_OF.get(extensions[i])):
                comments[i] = comment_chars(text, syntax) / len(text)
            if extensions[i] in _HTML:
                visible[i] = len(text) - sum(len(m[0]) for m in _INVISIBLE.finditer(text))
        with np.errstate(all="ignore"):
            out = {
                "code_chars": chars,
                "code_lines": lines,
                "code_max_line": counts["max_line"],
                "code_mean_line": (chars - (lines - 1)) / lines,
                "code_alnum": counts["alnum"] / chars,
                "code_alpha": counts["alpha"] / chars,
                "code_digits": counts["digits"] / chars,
                "code_comments": comments,
                "code_xml_header": header,
                "code_html_visible": visible / chars,
                "code_html_visible_chars": visible,
            }
        columns = {name: pa.array(np.ascontiguousarray(v), from_pandas=v.dtype.kind == "f") for name, v in out.items()}
        return columns | {"code_extension": pa.array(extensions, pa.string())}

    def _names(self, batch: pa.RecordBatch) -> list[str]:
        if self._field is None:
            return batch.column("path").to_pylist()
        names = (json.loads(row).get(self._field) for row in batch.column("metadata").to_pylist())
        return [name if isinstance(name, str) else "" for name in names]


def extension(name: str) -> str:
    """The extension of a file name without its dot, in lower case; the name itself where it has none."""
    path = PurePosixPath(name)
    return (path.suffix.removeprefix(".") or path.name).lower()


def comment_chars(text: str, syntax: re.Pattern[str]) -> int:
    """Characters of the comments of a text, their markers too."""
    return sum(len(found[1]) for found in syntax.finditer(text) if found[1])
