"""SPDX expressions: reading them, and how much they allow."""

from __future__ import annotations

import re

CLASSES = ("permissive", "weak copyleft", "copyleft", "other", "unknown")
"""From what allows most; *other* is a licence not known here, *unknown* none at all."""
PERMISSIVE = frozenset(
    """
    0BSD AFL-3.0 Apache-1.1 Apache-2.0 Artistic-2.0 BSD-1-Clause BSD-2-Clause BSD-2-Clause-Patent BSD-3-Clause
    BSD-3-Clause-Clear BSD-4-Clause BSL-1.0 BlueOak-1.0.0 CC-BY-3.0 CC-BY-4.0 CC0-1.0 FTL HPND ICU ISC Libpng MIT MIT-0
    MulanPSL-2.0 NCSA OpenSSL PHP-3.01 PSF-2.0 PostgreSQL Python-2.0 Unicode-3.0 Unlicense UPL-1.0 WTFPL X11 ZPL-2.1
    Zlib bzip2-1.0.6 curl libpng-2.0 libtiff
    """.split()
)
_WEAK = ("LGPL-", "MPL-", "EPL-", "CDDL-", "CPL-", "EUPL-", "MS-RL", "CC-BY-SA-", "OFL-")
_STRONG = ("GPL-", "AGPL-", "OSL-", "SSPL-", "Sleepycat")
_TOKEN = re.compile(r"\(|\)|[A-Za-z0-9][A-Za-z0-9.+:-]*")
_FOLDED = {name.lower(): name for name in PERMISSIVE}


class NoExpression(ValueError):
    """What stands there is no SPDX expression."""


def parse(text: str) -> tuple[str, str]:
    """(expression, class) of an SPDX expression: of an OR the class that allows more, of an AND the one that allows
    less. Raises NoExpression."""
    tokens = _TOKEN.findall(text)
    if not tokens or len(tokens) > 100 or _TOKEN.sub("", text).strip():
        raise NoExpression(text)
    expression, rank, rest = _either(tokens, 0)
    if rest != len(tokens):
        raise NoExpression(text)
    return expression, CLASSES[rank]


def of(name: str) -> str:
    """The class of one licence."""
    if name.lower() in _FOLDED:
        return "permissive"
    for prefixes, answer in ((_WEAK, "weak copyleft"), (_STRONG, "copyleft")):
        if any(name.lower().startswith(p.lower()) for p in prefixes):
            return answer
    return "unknown" if name.upper() in ("NONE", "NOASSERTION") else "other"


def _either(tokens: list[str], at: int) -> tuple[str, int, int]:
    expression, rank, at = _both(tokens, at)
    while at < len(tokens) and tokens[at].upper() == "OR":
        right, other, at = _both(tokens, at + 1)
        expression, rank = f"{expression} OR {right}", min(rank, other)
    return expression, rank, at


def _both(tokens: list[str], at: int) -> tuple[str, int, int]:
    expression, rank, at = _one(tokens, at)
    while at < len(tokens) and tokens[at].upper() == "AND":
        right, other, at = _one(tokens, at + 1)
        expression, rank = f"{expression} AND {right}", max(rank, other)
    return expression, rank, at


def _one(tokens: list[str], at: int) -> tuple[str, int, int]:
    if at >= len(tokens) or tokens[at] == ")" or tokens[at].upper() in ("AND", "OR", "WITH"):
        raise NoExpression(" ".join(tokens))
    if tokens[at] == "(":
        expression, rank, at = _either(tokens, at + 1)
        if at >= len(tokens) or tokens[at] != ")":
            raise NoExpression(" ".join(tokens))
        return f"({expression})", rank, at + 1
    name = _FOLDED.get(tokens[at].lower(), tokens[at])
    rank, at = CLASSES.index(of(name)), at + 1
    if at + 1 < len(tokens) and tokens[at].upper() == "WITH":
        return f"{name} WITH {tokens[at + 1]}", rank, at + 2
    return name, rank, at
