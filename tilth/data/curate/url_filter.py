"""Pages dropped for their address alone: lists of domains, hosts and addresses, and words inside the address.

In the order of DataTrove: domain, host, address, a hard word, several soft words, a part of a word; with the words of
RefinedWeb (Penedo et al. 2023, arXiv:2306.01116, appendix G.1). Differences, each of them a mistake mended:

  - the address is lower-cased and percent-decoded before words are looked for (DataTrove lets `/PORN/1` pass);
  - a domain on the list stands for all hosts below it, by the tree of names alone: there is no public-suffix list to
    fetch, and an entry such as `blog.example.com` works (compared with a registered domain, it never would);
  - names are compared in their ASCII form (`xn--…`), without `www.`, port, user and a dot at the end.

A document without an address is kept. The verdict's value is the number of the entry in its list, from 1 (of soft
words: how many were found, against `min_soft_words`).

Fails when: the lists are old, or words mean something else in another language or trade.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np
from pydantic import Field

from tilth.core.config import Config as BaseConfig
from tilth.core.errors import RecipeError
from tilth.core.hashing import content_hash
from tilth.core.located import Located
from tilth.core.protocols import Verdicts
from tilth.data.read import compression, reading

if TYPE_CHECKING:
    import pyarrow as pa

CARD = {
    "title": "Filter of addresses",
    "paper": "arXiv:2306.01116",
    "claim": "Adult, gambling and other unwanted sites go before their pages are looked at.",
    "check": "Planted addresses on both sides of each rule, and DataTrove's verdicts"
    " (tests/data/curate/test_url_filter.py).",
}

KNOBS = {
    "domains": ["example.net"],
    "hosts": ["news.example.com"],
    "urls": ["https://blog.example.org/?p=1"],
    "words": ["story"],
    "soft_words": ["fox", "wiki"],
    "subwords": ["2019story"],
    "curated": ["wikipedia.org"],
}

Entries = list[str] | Located
"""Entries, or the name of a file with one on each line (# begins a comment; .gz and .zst are inflated)."""

LISTS = ("domains", "hosts", "urls", "words", "soft_words", "subwords", "curated")
HARD = ["porn", "porno", "xxx", "hentai", "milf", "camgirls", "sexcam"]
SOFT = [
    *("sex", "adult", "nude", "naked", "erotic", "fetish", "escort", "webcam", "hardcore", "amateur", "teens"),
    *("casino", "poker", "betting", "slots", "jackpot", "viagra", "cialis", "pills", "payday", "torrent", "crack"),
]
SUBWORDS = ["pornhub", "xvideos", "xhamster", "redtube", "youporn", "sexcam", "camgirl", "onlinecasino"]


class Config(BaseConfig):
    """The lists: given here, or as the name of a file. The words that stand here are a beginning in English."""

    domains: Entries = []
    """Domains; every host below one counts. `.xxx` is a whole top-level domain."""
    hosts: Entries = []
    """Hosts, as they stand."""
    urls: Entries = []
    """Whole addresses; scheme, `www.`, fragment and a slash at the end do not matter."""
    words: Entries = HARD
    """Words of which one is enough, between characters that are neither letter nor digit."""
    soft_words: Entries = SOFT
    """Words of which several are needed."""
    subwords: Entries = SUBWORDS
    """Parts of words, looked for once everything but letters and digits is deleted."""
    curated: Entries = []
    """Domains that come into the corpus from a better source (RefinedWeb leaves out Wikipedia, arXiv and others)."""
    min_soft_words: int = Field(2, ge=1)
    """So many different soft words drop an address."""

    def fingerprint(self) -> str:
        """Changes with the content of the files of entries. Raises RecipeError if one cannot be read."""
        given: dict[str, Any] = {name: getattr(self, name) for name in LISTS}
        return content_hash({name: _entries(name, given[name]) for name in given if isinstance(given[name], str)})

    def build(self) -> Filter:
        """The filter. Raises RecipeError if a list cannot be read."""
        return Filter(self)


class Filter:
    """Judges each address by itself."""

    def __init__(self, config: Config) -> None:
        self._domains = _numbered(map(host_of, _entries("domains", config.domains)))
        self._curated = _numbered(map(host_of, _entries("curated", config.curated)))
        self._hosts = _numbered(map(host_of, _entries("hosts", config.hosts)))
        self._urls = _numbered(map(_canonical, _entries("urls", config.urls)))
        self._words = _numbered(map(str.lower, _entries("words", config.words)))
        self._soft = frozenset(map(str.lower, _entries("soft_words", config.soft_words)))
        subwords = (_DELETED.sub("", s.lower()) for s in _entries("subwords", config.subwords))
        self._subwords = _numbered(subwords)
        self._any_subword = re.compile(trie(s for s in self._subwords if s)) if self._subwords else None
        self._least = config.min_soft_words

    def judge(self, batch: pa.RecordBatch, signals: pa.RecordBatch | None = None) -> Verdicts:
        """Drop documents by their address."""
        n = batch.num_rows
        reasons, value, threshold = [""] * n, np.full(n, np.nan), np.full(n, np.nan)
        for i, url in enumerate(batch.column("url").to_pylist()):
            if url:
                reasons[i], number = self.verdict(url)
                if reasons[i]:
                    value[i] = number
                    threshold[i] = self._least if reasons[i] == "soft words" else np.nan
        return Verdicts(np.array([not r for r in reasons], dtype=bool), reasons, value, threshold)

    def verdict(self, url: str) -> tuple[str, int]:
        """(reason or "", number of the entry that holds)."""
        host = host_of(url)
        for reason, listed in (("domain", self._domains), ("curated elsewhere", self._curated)):
            for name in above(host) if listed else ():
                if name in listed:
                    return reason, listed[name]
        if host in self._hosts:
            return "host", self._hosts[host]
        if self._urls and (address := _canonical(url)) in self._urls:
            return "address", self._urls[address]
        plain = unquote(url, errors="replace").lower()
        pieces = [p for p in _DELETED.split(plain) if p]
        for piece in pieces:
            if piece in self._words:
                return "hard word", self._words[piece]
        soft = len(self._soft.intersection(pieces))
        if soft >= self._least:
            return "soft words", soft
        if self._any_subword and (found := self._any_subword.search("".join(pieces))):
            return "part of a word", self._subwords[found[0]]
        return "", 0


_DELETED = re.compile(r"[\W_]+")
_HOST = re.compile(r"^(?:[a-z][a-z0-9+.-]*:)?//(?:[^/?#@]*@)?(\[[^\]]*\]|[^/?#:]*)", re.IGNORECASE)
_LABEL = re.compile(r"[^\x00-\x7f]")


@lru_cache(maxsize=1 << 16)
def _ascii(host: str) -> str:
    try:
        return host.encode("idna").decode("ascii")
    except UnicodeError:
        return host


def host_of(url: str) -> str:
    """The name of the machine in an address (or a bare name), in ASCII and lower case, without `www.`."""
    found = _HOST.match(url)
    host = found[1] if found else re.split(r"[/?#:]", url, maxsplit=1)[0]
    host = host.strip().lower().rstrip(".").removeprefix("www.")
    if _LABEL.search(host):
        host = _ascii(host).lower() if len(host) <= 253 else host
    return host


def above(host: str) -> Iterable[str]:
    """A host and the domains it lies in; the top-level domain as `.com`. Addresses of numbers lie in none."""
    yield host
    if host.startswith("[") or host.replace(".", "").isdigit():
        return
    labels = host.split(".")
    for i in range(1, len(labels) - 1):
        yield ".".join(labels[i:])
    yield "." + labels[-1]


def _canonical(url: str) -> str:
    found = _HOST.match(url)
    rest = url[found.end() :] if found else url[len(re.split(r"[/?#:]", url, maxsplit=1)[0]) :]
    return host_of(url) + rest.partition("#")[0].rstrip("/")


def trie(words: Iterable[str]) -> str:
    """A pattern that finds the leftmost of many words in one pass, the longest where several begin there."""
    root: dict[str, Any] = {}
    for word in words:
        node = root
        for c in word:
            node = node.setdefault(c, {})
        node[""] = {}

    def pattern(node: dict[str, Any]) -> str:
        after = [re.escape(c) + pattern(node[c]) for c in sorted(node) if c]
        if not after:
            return ""
        inner = after[0] if len(after) == 1 else "(?:" + "|".join(after) + ")"
        return inner if "" not in node else f"(?:{inner})?"

    return pattern(root) or r"(?!)"


def _numbered(entries: Iterable[str]) -> dict[str, int]:
    out: dict[str, int] = {}
    for number, entry in enumerate(entries, 1):
        out.setdefault(entry, number)
    out.pop("", None)
    return out


def _entries(field: str, given: Entries) -> list[str]:
    entries = [entry.strip() for entry in given] if isinstance(given, list) else _lines(field, given)
    longest = max(entries, key=len, default="")
    if len(longest) > 200 and field != "urls":
        raise RecipeError(f"an entry of {len(longest):,} characters.", where=f"url_filter.{field}: {longest[:60]}…")
    return entries


def _lines(field: str, given: str) -> list[str]:
    path = Path(given).expanduser()
    try:
        data = b"".join(compression.chunks(path, reading.Limits(1 << 30, 1000.0, 1 << 31)))
        lines = reading.decode(data, first=True).split("\n")
    except reading.Unreadable as err:
        raise RecipeError(f"the list cannot be read: {err.reason}.", where=f"url_filter.{field}: {path}") from None
    return [line.partition("#")[0].strip() if not line.startswith("http") else line.strip() for line in lines]
