"""Which licence a document stands under: declared by its source, in an SPDX header, or by the words of a licence.

In this order, the first that says something counts. Licence texts are known by a few phrases each, compared as
lower-case words, so that comment signs and line breaks do not matter; the confidence is the share of the phrases of a
licence that are found. What none of this finds is *unknown*, which is not permissive (ComPile, arXiv:2309.15432).

Fails when: a licence stands in another file of the repository only; let the source fill the column `licence`.
"""

from __future__ import annotations

import re

import pyarrow as pa
from pydantic import Field

from tilth.core.config import Config as BaseConfig
from tilth.data.text import licences

CARD = {
    "title": "Licence detection",
    "paper": "arXiv:2309.15432",
    "claim": "A licence expression, where it comes from, how sure that is, and what class of licence it is.",
    "check": "Licence headers and texts are recognised, near misses and silence are not"
    " (tests/data/signal/test_licence.py).",
}

_SPDX = re.compile(r"SPDX-License-Identifier:[ \t]*([^\r\n]{1,200})")
_CLOSING = re.compile(r"[ \t]*(?:\*+/|-->|\*\)|#}|[\"';,*#]+)[ \t]*\Z")
_NOT_WORDS = re.compile(r"[^a-z0-9]+")
_BSD = ("redistribution and use in source and binary forms with or without modification are permitted",)
_BSD_NAME = (
    "be used to endorse or promote products derived from this software without specific prior written permission"
)
_GNU = "as published by the free software foundation"
_TEXTS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    # identifier, phrases that are all wanted, phrases that exclude it
    ("Apache-2.0", ("licensed under the apache license version 2 0",), ()),
    ("Apache-2.0", ("apache license version 2 0 january 2004", "grant of patent license"), ()),
    (
        "MIT",
        (
            "permission is hereby granted free of charge to any person obtaining a copy",
            "to deal in the software without restriction",
            "the above copyright notice and this permission notice shall be included in all copies",
        ),
        ("except as contained in this notice the name",),
    ),
    (
        "X11",
        (
            "permission is hereby granted free of charge to any person obtaining a copy",
            "to deal in the software without restriction",
            "except as contained in this notice the name",
        ),
        (),
    ),
    (
        "MIT-0",
        ("permission is hereby granted free of charge to any person obtaining a copy of this software",),
        ("the above copyright notice and this permission notice",),
    ),
    (
        "BSD-3-Clause",
        (*_BSD, "redistributions in binary form must reproduce", _BSD_NAME),
        ("all advertising materials",),
    ),
    ("BSD-4-Clause", (*_BSD, "all advertising materials mentioning features or use of this software"), ()),
    (
        "BSD-2-Clause",
        (*_BSD, "redistributions in binary form must reproduce"),
        (_BSD_NAME, "all advertising materials"),
    ),
    ("BSD-3-Clause", ("use of this source code is governed by a bsd style license",), ()),
    (
        "ISC",
        (
            "permission to use copy modify and or distribute this software for any purpose with or without fee is "
            "hereby granted provided that the above copyright notice",
        ),
        (),
    ),
    (
        "0BSD",
        (
            "permission to use copy modify and or distribute this software for any purpose with or without fee is "
            "hereby granted",
        ),
        ("provided that the above copyright notice",),
    ),
    (
        "Zlib",
        (
            "this software is provided as is without any express or implied warranty",
            "altered source versions must be plainly marked as such",
        ),
        (),
    ),
    ("BSL-1.0", ("boost software license version 1 0",), ()),
    ("Unlicense", ("this is free and unencumbered software released into the public domain",), ()),
    ("CC0-1.0", ("cc0 1 0 universal",), ()),
    ("WTFPL", ("do what the fuck you want to public license",), ()),
    ("PSF-2.0", ("python software foundation license version 2",), ()),
    ("MPL-2.0", ("subject to the terms of the mozilla public license v 2 0",), ()),
    ("MPL-2.0", ("mozilla public license version 2 0",), ()),
    ("EPL-2.0", ("eclipse public license",), ("eclipse public license v1 0", "eclipse public license version 1 0")),
    ("EPL-1.0", ("eclipse public license", "1 0"), ("eclipse public license v 2 0", "eclipse public license 2 0")),
    ("AGPL-3.0-or-later", ("gnu affero general public license", _GNU, "any later version"), ()),
    ("AGPL-3.0-only", ("gnu affero general public license", "version 3"), ("any later version",)),
    ("LGPL-3.0-or-later", ("gnu lesser general public license", "version 3", "any later version"), ()),
    ("LGPL-2.1-or-later", ("gnu lesser general public license", "version 2 1", "any later version"), ()),
    ("LGPL-2.0-or-later", ("gnu library general public license", "version 2", "any later version"), ()),
    ("GPL-3.0-or-later", ("gnu general public license", "version 3", "any later version"), ()),
    ("GPL-2.0-or-later", ("gnu general public license", "version 2", "any later version"), ()),
    ("GPL-3.0-only", ("gnu general public license", "version 3"), ("any later version",)),
    ("GPL-2.0-only", ("gnu general public license", "version 2"), ("any later version",)),
    ("CC-BY-SA-4.0", ("creative commons attribution sharealike 4 0",), ()),
    ("CC-BY-NC-4.0", ("creative commons attribution noncommercial 4 0",), ()),
    ("CC-BY-4.0", ("creative commons attribution 4 0",), ()),
    ("MIT", ("licensed under the mit license",), ()),
    ("MIT", ("released under the mit license",), ()),
)
_SIGNS = ("licen", "permission", "redistribution", "public domain", "software is provided", "cc0")
Found = tuple[str | None, str, float, str]


class Config(BaseConfig):
    """Where it is looked for."""

    max_chars: int = Field(20_000, gt=0)
    """Characters of the beginning that are looked at."""

    def columns(self) -> dict[str, str]:
        """The expression, its source, confidence and class."""
        return {
            "licence_id": "SPDX expression; null where none is known",
            "licence_source": "declared (by the source), header (SPDX), text (words of a licence), or none",
            "licence_confidence": "1 for what is declared or a header; share of a text's phrases found; 0 for none",
            "licence_class": ", ".join(licences.CLASSES),
        }

    def build(self) -> Signals:
        """The detector, which has no memory."""
        return Signals(self.max_chars)


class Signals:
    """Looks at the documents of a batch."""

    def __init__(self, max_chars: int) -> None:
        self._max = max_chars

    def compute(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        """string, string, float64 and string."""
        texts, declared = batch.column("text").to_pylist(), batch.column("licence").to_pylist()
        rows = [detect(text[: self._max], given or "") for text, given in zip(texts, declared, strict=True)]
        ids, sources, confidence, classes = zip(*rows, strict=True) if rows else ((), (), (), ())
        return {
            "licence_id": pa.array(ids, pa.string()),
            "licence_source": pa.array(sources, pa.string()),
            "licence_confidence": pa.array(confidence, pa.float64()),
            "licence_class": pa.array(classes, pa.string()),
        }


def detect(text: str, declared: str = "") -> Found:
    """(expression or None, source, confidence, class) of the beginning of a document."""
    if declared.strip():
        try:
            expression, kind = licences.parse(declared)
        except licences.NoExpression:
            expression, kind = declared.strip(), "other"
        if kind != "unknown":
            return expression, "declared", 1.0, kind
    for found in _SPDX.finditer(text):
        try:
            expression, kind = licences.parse(_CLOSING.sub("", found[1]).strip())
        except licences.NoExpression:
            continue
        if kind != "unknown":
            return expression, "header", 1.0, kind
    words = text.lower()
    if any(sign in words for sign in _SIGNS):
        words = f" {_NOT_WORDS.sub(' ', words)} "
        best, share = None, 0.0
        for name, wanted, without in _TEXTS:
            have = sum(f" {phrase} " in words for phrase in wanted) / len(wanted)
            if have > share and not any(f" {phrase} " in words for phrase in without):
                best, share = name, have
        if best is not None and share > 0.5:
            return best, "text", share, licences.of(best)
    return None, "none", 0.0, "unknown"
