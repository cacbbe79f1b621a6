"""Rules about single lines that write refining programs: what `tilth.data.curate.refine` does without a model."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Sequence

from .programs import Call, Program

_MENU = (
    "about|account|archive|archives|articles|blog|cart|categories|contact|contact us|about us|donate|events|faq|forum|"
    "gallery|help|home|homepage|jobs|log in|login|menu|my account|news|next|previous|privacy|privacy policy|products|"
    "register|rss|search|services|shop|sign in|sign up|site map|sitemap|store|subscribe|support|terms|terms of use|"
    "terms of service|videos"
)
_NETWORKS = "facebook|twitter|x|linkedin|pinterest|reddit|whatsapp|instagram|tumblr|telegram|email|e-mail|youtube"
_BETWEEN = re.compile(r"\s*[|›»·•]\s*")
_MENU_WORD = re.compile(_MENU, re.I)
_LINES = {
    "share": re.compile(
        rf"(?:share|tweet|pin|like|follow|email|print)(?: (?:this|us|it|me))?(?: (?:article|page|post|story))?"
        rf"(?: (?:on|via|to|with|by) (?:{_NETWORKS})(?:(?:,| and|,? or) (?:{_NETWORKS}))*)?[.!:]?|"
        rf"(?:{_NETWORKS})(?:[ |,/·•]+(?:{_NETWORKS}))+",
        re.I,
    ),
    "page_numbers": re.compile(
        r"(?:page|seite|pagina|página)\s+\d{1,5}(?:\s*(?:of|/|von|de|sur)\s*\d{1,5})?|[-–—]\s*\d{1,5}\s*[-–—]", re.I
    ),
    "urls": re.compile(r"(?:https?://|www\.)\S+(?:\s+(?:https?://|www\.)\S+)*", re.I),
}
_COOKIES = re.compile(
    r"\b(?:uses? cookies|use of cookies|accept (?:all )?cookies|"
    r"cookie (?:policy|settings|preferences|notice|consent))\b",
    re.I,
)
_MARKS = ("[edit]", "[citation needed]")
_COOKIE_WORDS, _REPEATED_WORDS, _REPEATS = 60, 5, 2


def rule_programs(text: str, rules: Sequence[str]) -> list[Program]:
    """One program per rule that finds something."""
    lines = text.split("\n")
    found: dict[str, list[int]] = {}
    seen: Counter[str] = Counter()
    for k, line in enumerate(lines):
        bare = line.strip()
        if not bare:
            continue
        for rule in rules:
            if rule == "repeated":
                hit = len(bare.split()) >= _REPEATED_WORDS and seen[bare] >= _REPEATS
            else:
                hit = rule in _TESTS and _TESTS[rule](bare)
            if hit:
                found.setdefault(rule, []).append(k)
                break
        seen[bare] += 1
    out = [
        Program(tuple(Call("remove_lines", (a, b)) for a, b in _runs(found[rule])), label=rule)
        for rule in rules
        if rule in found
    ]
    marks = [mark for mark in _MARKS if mark in text] if "wiki_marks" in rules else []
    if marks:
        out.append(Program(tuple(Call("normalize", (mark, "")) for mark in marks), label="wiki_marks"))
    return out


def _runs(lines: list[int]) -> list[tuple[int, int]]:
    """Sorted numbers as (first, last) of stretches without a gap."""
    out: list[tuple[int, int]] = []
    for k in lines:
        if out and out[-1][1] == k - 1:
            out[-1] = (out[-1][0], k)
        else:
            out.append((k, k))
    return out


def _navigation(line: str) -> bool:
    if len(line) > 300 or (line[0] == "|" and line[-1] == "|"):  # a row of a table
        return False
    items = [item for item in _BETWEEN.split(line) if item]
    short = len(items) >= 3 and all(len(item.split()) <= 4 for item in items)
    return short and sum(_MENU_WORD.fullmatch(item) is not None for item in items) >= 2


def _cookies(line: str) -> bool:
    return _COOKIES.search(line) is not None and len(line.split()) <= _COOKIE_WORDS


def _matches(pattern: re.Pattern[str], line: str) -> bool:
    return pattern.fullmatch(line) is not None


_TESTS: dict[str, Callable[[str], bool]] = {
    "navigation": _navigation,
    "cookies": _cookies,
    **{name: functools.partial(_matches, pattern) for name, pattern in _LINES.items()},
}
