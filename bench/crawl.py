"""A noisy crawl made from clean text, with the truth about each page: the ground for tests, trials and benchmarks.

Pages are HTML with the furniture of real sites (navigation, cookie banners, share buttons, footers; one template per
host) around prose, code, tables, formulas and questions; among them exact and near duplicates at planted edit rates,
mirrors, spam, other languages, gibberish, machine output, personal data (synthetic), insults, evaluation items, and
records that are broken. The same pages are written as WARC (`warc/*.warc.gz`), as the text a plain converter makes of
them (`text/*.jsonl.zst`), and as `truth.jsonl`: one line per page with its kind and what was planted.

    python bench/crawl.py /tmp/crawl --megabytes 100 --seed 0

Everything is a pure function of (seed, megabytes, the texts at hand); a larger crawl begins with the pages of a
smaller one. Texts come from the shared corpora, else from the Python standard library. Once each piece of text has
been used, further pages are made of its sentences, mixed anew with some words exchanged, so that a crawl of any size
holds no duplicates but those planted. A share of the source documents is never used: `held-out.jsonl`.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import html
import io
import json
import random
import re
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"

KINDS = {
    "clean": 42.0,
    "near": 8.0,  # an earlier page with words exchanged, at a rate of EDIT_RATES
    "exact": 5.0,  # an earlier page at another address
    "mirror": 3.0,  # an earlier page's content in another host's template
    "embedded": 2.0,  # a new page that quotes a long passage of an earlier one
    "keywords": 4.0,
    "lorem": 2.5,
    "repeated": 2.5,
    "foreign": 8.0,
    "gibberish": 3.5,
    "machine": 4.0,
    "furniture": 5.0,  # a page that is all navigation
    "toxic": 2.0,
    "pii": 4.0,
    "evaluation": 1.5,  # a page that holds items of evaluation sets
    "short": 1.5,
    "broken": 1.5,
}
"""Kind of page -> share of the pages in per cent."""
WANTED = {"clean", "pii", "embedded"}
"""Kinds whose text one would train on (personal data masked, the quoted passage aside)."""
DOMAINS = {"books": 42.0, "wiki": 18.0, "manual": 18.0, "code": 14.0, "math": 8.0}
"""Domain of the clean text -> share of the pages in per cent; of those that are at hand."""
EDIT_RATES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4)
FAULTS = ("bad utf-8", "nul and control characters", "empty", "absurd date", "deep json", "bomb", "truncated")
SHARD_BYTES = 32_000_000
HELD_OUT = 0.05

_HOSTS = 240
_TOPICS = "garden travel cooking history science music code linux math health sport film books finance games".split()
_INSULTS = (
    "You are a complete idiot and nobody likes you.",
    "What a stupid, pathetic loser this author is.",
    "Shut up, you worthless moron.",
    "I hate these disgusting people and everything they stand for.",
    "Only a brainless clown would write such garbage.",
    "Go away, you ugly, useless fool.",
)
_STUFFING = (
    "cheap best buy online casino bonus free discount pills loan replica watches deal offer win jackpot crypto "
    "poker viagra mortgage seo ranking traffic click now sale guaranteed instant approval weight loss"
).split()
_LOREM = (
    "Lorem ipsum dolor sit amet, consectetur adipiscing elit. Sed do eiusmod tempor incididunt ut labore et dolore "
    "magna aliqua. Ut enim ad minim veniam, quis nostrud exercitation ullamco laboris nisi ut aliquip ex ea commodo "
    "consequat. Duis aute irure dolor in reprehenderit in voluptate velit esse cillum dolore eu fugiat nulla pariatur."
)
_FOREIGN = {
    "de": "Der Hund läuft schnell durch den großen Garten und sucht nach seinem Ball. Die Kinder spielen heute nicht "
    "draußen, weil es seit dem Morgen regnet. Wir haben gestern ein altes Buch über die Geschichte der Stadt gelesen. "
    "Im Winter ist es hier oft sehr kalt, aber die Häuser sind warm. Niemand wusste, wann der nächste Zug fährt.",
    "fr": "Le chien court vite dans le grand jardin et cherche sa balle. Les enfants ne jouent pas dehors aujourd'hui "
    "parce qu'il pleut depuis ce matin. Nous avons lu hier un vieux livre sur l'histoire de la ville. En hiver il fait "
    "souvent très froid ici, mais les maisons sont chaudes. Personne ne savait quand partait le prochain train.",
}
_FORMULAS = (
    r"\int_0^1 x^{%d}\,dx = \frac{1}{%d}",
    r"\sum_{k=1}^{%d} k = \frac{%d (n+1)}{2}",
    r"e^{i\pi} + %d = \alpha_{%d}",
    r"\nabla \cdot \mathbf{E} = \frac{\rho_{%d}}{\varepsilon_{%d}}",
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+")

Block = tuple[str, Any]
"""("p", text), ("pre", code), ("table", rows), ("math", LaTeX), ("ul", items)"""


# ---- the texts at hand -----------------------------------------------------------------------------------------------


@dataclass
class Texts:
    """Pieces of clean text by domain, and the texts never used."""

    pieces: dict[str, list[str]]
    foreign: dict[str, list[str]]
    evaluation: list[str]
    held_out: list[dict[str, str]]
    words: list[str] = field(default_factory=list)
    sentences: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        counts: Counter[str] = Counter()
        for domain, pieces in self.pieces.items():
            if domain != "code":
                self.sentences[domain] = [s for piece in pieces for s in _SENTENCE.split(piece) if 30 < len(s) < 400]
                counts.update(w for piece in pieces[:400] for w in piece.split() if w.isalpha() and w.islower())
        self.words = sorted(counts, key=lambda w: (-counts[w], w))[:4000]


@lru_cache(maxsize=2)
def texts(corpora: str | None = None) -> Texts:
    """Of the folder of shared corpora, or where there is none of the standard library."""
    folder = Path(corpora) if corpora else SHARED
    whole: dict[str, list[str]]
    if (folder / "books-en.jsonl.zst").exists():
        names = {"books": "books-en", "wiki": "wiki-en", "manual": "man-en", "code": "code-python"}
        whole = {d: [row["text"] for row in _rows(folder / f"{n}.jsonl.zst")] for d, n in names.items()}
        whole["wiki"] = [_rejoined(text) for text in whole["wiki"]]
        whole["math"] = [row["text"] for row in _rows(folder / "math-gsm8k-train.jsonl.zst")]
        foreign = {k: [row["text"] for row in _rows(folder / f"man-{k}.jsonl.zst")] for k in ("de", "fr")}
        evaluation = [row["text"] for row in _rows(folder / "math-gsm8k-test.jsonl.zst")]
        blimp = [row["good"] for row in _rows(folder / "blimp-minimal-pairs.jsonl.zst")]
        evaluation += ["\n".join(blimp[i : i + 8]) for i in range(0, len(blimp), 64)]
    else:
        whole = _standard_library()
        foreign = {k: [v] for k, v in _FOREIGN.items()}
        evaluation = [f"Question {i}: how many of {i + 3} boxes hold {i * 7 % 11} stones each?" for i in range(200)]
    pieces: dict[str, list[str]] = {}
    held_out = []
    for domain, documents in whole.items():
        cut = [(unit(f"held out {domain} {i}") < HELD_OUT, d) for i, d in enumerate(documents)]
        held_out += [{"id": f"held-out-{domain}-{i}", "domain": domain, "text": d} for i, (h, d) in enumerate(cut) if h]
        pieces[domain] = [p for i, (h, d) in enumerate(cut) if not h for p in _pieces(d, domain, i)]
    return Texts(
        pieces, {k: [p for d in v for p in _pieces(d, k, 0)] for k, v in foreign.items()}, evaluation, held_out
    )


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    import zstandard

    with zstandard.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _rejoined(text: str) -> str:
    """The encyclopaedia's text without the spaces and marks its tokenisation left."""
    text = re.sub(r" @([-,.])@ ", r"\1", text.replace("<unk>", "one"))
    return re.sub(r" ([,.;:!?)\]%]|'s|n't)", r"\1", re.sub(r"([(\[]) ", r"\1", text)).replace("\n", "\n\n")


def _standard_library() -> dict[str, list[str]]:
    import sysconfig

    from tilth.data.text.python import Module

    root = Path(sysconfig.get_path("stdlib"))
    skip = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "lib2to3", "_bundled"}
    found: dict[str, list[str]] = {"code": [], "manual": []}
    for path in sorted(root.rglob("*.py")):
        if skip.isdisjoint(path.relative_to(root).parts):
            try:
                module = Module(path.read_bytes())
            except (SyntaxError, ValueError, RecursionError, OSError):
                continue
            for name, text in (("code", module.code()), ("manual", module.prose())):
                if len(text) > 200:
                    found[name].append(text)
    return found


def _pieces(document: str, domain: str, number: int) -> Iterator[str]:
    """Passages of 1 to 6 kB, cut between paragraphs (code: between blank lines)."""
    paragraphs = document.split("\n\n")
    least = 1000 + int(unit(f"{domain} {number}") * 5000)
    at: list[str] = []
    size = 0
    for paragraph in paragraphs:
        at.append(paragraph)
        size += len(paragraph) + 2
        if size >= least:
            yield "\n\n".join(at)
            at, size = [], 0
    if at and (size > 200 or len(paragraphs) == len(at)):
        yield "\n\n".join(at)


def unit(key: str) -> float:
    """A number in [0, 1) that only the key decides."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64


# ---- the plan: which pages there are -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Page:
    """A page before it is made. `piece` counts the clean pages of its domain before it; `of` is an earlier page."""

    number: int
    kind: str
    domain: str
    piece: int
    of: int = -1
    rate: float = 0.0
    fault: str = ""


@dataclass
class Plan:
    """All pages of a crawl, and from which on each file begins."""

    seed: int
    pages: list[Page]
    shards: list[range]
    corpora: str | None = None


def plan(
    seed: int, megabytes: float, corpora: str | None = None, broken: bool = True, shard_bytes: int = SHARD_BYTES
) -> Plan:
    """Draw the pages until their texts come to about `megabytes` million bytes; a file holds `shard_bytes` of them."""
    found = texts(corpora)
    sizes = {d: sum(map(len, p)) / len(p) for d, p in found.pieces.items()}
    domains = list(found.pieces)
    weights = [DOMAINS[d] for d in domains]
    kinds, shares = list(KINDS), [v if broken or k != "broken" else 0.0 for k, v in KINDS.items()]
    draw = random.Random(f"{seed} plan")
    pages: list[Page] = []
    shards: list[range] = []
    originals: list[int] = []
    used: Counter[str] = Counter()
    total, first, mark = 0.0, 0, float(shard_bytes)
    while total < megabytes * 1e6:
        kind = draw.choices(kinds, shares)[0]
        domain = draw.choices(domains, weights)[0]
        of, rate, fault = -1, 0.0, ""
        pick, which = draw.random(), draw.random()
        if kind in ("near", "exact", "mirror", "embedded") and len(originals) < 20:
            kind = "clean"
        if kind in ("near", "exact", "mirror", "embedded"):
            of = originals[int(pick * len(originals))]
            rate = EDIT_RATES[int(which * len(EDIT_RATES))] if kind == "near" else 0.0
        if kind == "broken":
            fault = FAULTS[int(which * len(FAULTS))]
        page = Page(len(pages), kind, domain, used[domain], of, rate, fault)
        if kind in ("clean", "embedded", "toxic", "pii", "evaluation", "broken"):
            used[domain] += 1
        if kind == "clean":
            originals.append(page.number)
        pages.append(page)
        total += _planned_bytes(page, pages, sizes)
        if total >= mark:
            shards.append(range(first, len(pages)))
            first, mark = len(pages), mark + shard_bytes
    if first < len(pages):
        shards.append(range(first, len(pages)))
    return Plan(seed, pages, shards, corpora)


def _planned_bytes(page: Page, pages: Sequence[Page], sizes: dict[str, float]) -> float:
    if page.kind in ("near", "exact", "mirror"):
        return 600 + sizes[pages[page.of].domain]
    fixed = {"keywords": 2200, "lorem": 2000, "repeated": 2600, "foreign": 3600, "gibberish": 2200, "machine": 3200}
    fixed |= {"furniture": 700, "short": 700}
    return fixed.get(page.kind, 600 + sizes[page.domain])


# ---- a page: its content ---------------------------------------------------------------------------------------------


@dataclass
class Content:
    """What a page says, and what was planted in it."""

    title: str
    blocks: list[Block]
    language: str = "en"
    pii: Counter[str] = field(default_factory=Counter)
    planted: list[str] = field(default_factory=list)


def content(page: Page, of: Plan) -> Content:
    """A pure function of the page and the plan's seed."""
    found = texts(of.corpora)
    draw = random.Random(f"{of.seed} {page.number}")
    kind = page.kind
    if kind in ("exact", "mirror"):
        return content(of.pages[page.of], of)
    if kind == "near":
        made = content(of.pages[page.of], of)
        made.blocks = [
            (tag, _edited(b, page.rate, draw, found) if tag in ("p", "pre") else b) for tag, b in made.blocks
        ]
        return made
    if kind == "foreign":
        language = draw.choice(sorted(found.foreign))
        pieces = found.foreign[language]
        text = pieces[(page.number * 7919) % len(pieces)]
        if page.number > 3 * len(pieces):
            text = _mixed(_SENTENCE.split(" ".join(draw.choices(pieces, k=3))), draw, found, 3000)
        return Content(_title(text), [("p", p) for p in text.split("\n\n")], language)
    if kind in _NOISE:
        return Content(*_NOISE[kind](draw, found))
    text = _clean(page, draw, found)
    made = Content(_title(text), _blocks(text, page.domain, draw))
    if kind == "embedded":
        source = _clean(of.pages[page.of], random.Random(f"{of.seed} {page.of}"), found)
        passage = " ".join(source.split()[:150])
        made.blocks.insert(len(made.blocks) // 2, ("p", passage))
        made.planted.append(passage)
    elif kind == "toxic":
        insults = [draw.choice(_INSULTS) for _ in range(draw.randint(3, 8))]
        made.planted += insults
        made.blocks += [("p", " ".join(insults[i : i + 2])) for i in range(0, len(insults), 2)]
    elif kind == "pii":
        for _ in range(draw.randint(1, 5)):
            name, value, sentence = _personal(draw)
            made.pii[name] += 1
            made.planted.append(value)
            made.blocks.insert(draw.randint(0, len(made.blocks)), ("p", sentence))
    elif kind == "evaluation":
        item = found.evaluation[int(draw.random() * len(found.evaluation))]
        made.planted.append(item)
        made.blocks.insert(draw.randint(0, len(made.blocks)), ("p", item))
    return made


def _clean(page: Page, draw: random.Random, found: Texts) -> str:
    pieces = found.pieces[page.domain]
    if page.piece < len(pieces):  # each once, scattered
        return pieces[(page.piece * _coprime(len(pieces))) % len(pieces)]
    if page.domain == "code":
        parts = [p for piece in draw.sample(pieces, 4) for p in piece.split("\n\n")]
        draw.shuffle(parts)
        return _edited("\n\n".join(parts[: len(parts) // 3 + 1]), 0.15, draw, found)
    return _mixed(found.sentences[page.domain], draw, found, draw.randint(1000, 6000))


@lru_cache
def _coprime(n: int) -> int:
    from math import gcd

    k = int(n * 0.618) | 1
    while gcd(k, n) != 1:
        k += 2
    return k


def _mixed(sentences: Sequence[str], draw: random.Random, found: Texts, size: int) -> str:
    paragraphs, at, length = [], [], 0
    while length < size:
        sentence = _edited(sentences[int(draw.random() * len(sentences))].replace("\n", " "), 0.12, draw, found)
        at.append(sentence)
        length += len(sentence) + 1
        if draw.random() < 0.2:
            paragraphs.append(" ".join(at))
            at = []
    return "\n\n".join([*paragraphs, " ".join(at)] if at else paragraphs)


def _edited(text: str, rate: float, draw: random.Random, found: Texts) -> str:
    """The text with a share `rate` of its words replaced, deleted, or given a new word before them."""
    words = re.split(r"(\s+)", text)  # words at even places
    n, vocabulary = (len(words) + 1) // 2, found.words
    for i in draw.sample(range(n), round(rate * n)):
        how, other = draw.random(), vocabulary[int(draw.random() * len(vocabulary))]
        words[2 * i] = other if how < 0.7 else "" if how < 0.85 else f"{other} {words[2 * i]}"
    return "".join(words)


def _title(text: str) -> str:
    return " ".join(text.split()[:8])[:80]


def _blocks(text: str, domain: str, draw: random.Random) -> list[Block]:
    if domain == "code":
        parts = text.split("\n\n\n")
        out: list[Block] = [("p", "The module below is part of the example and can be used as it stands.")]
        return out + [("pre", part) for part in parts if part.strip()]
    out = [("p", p) for p in text.split("\n\n") if p.strip()]
    if domain == "math" and draw.random() < 0.4:
        n = draw.randint(2, 99)
        out.append(("math", draw.choice(_FORMULAS) % (n, n + 1)))
    if draw.random() < 0.08:
        rows = [[f"item {draw.randint(1, 999)}", str(draw.randint(1, 10**6)), f"{draw.random():.3f}"] for _ in range(5)]
        out.append(("table", [["name", "count", "share"], *rows]))
    return out


def _personal(draw: random.Random) -> tuple[str, str, str]:
    """(type, value, sentence); nobody's: reserved domains, numbers and networks."""
    name = draw.choice(("anna", "ben", "carla", "dmitri", "eve", "farid")) + str(draw.randint(1, 999))
    kind = draw.choice(("email", "phone", "ipv4", "card"))
    if kind == "email":
        value = f"{name}@mail{draw.randint(1, 99)}.example"
        return kind, value, f"Questions about this page go to {value} at any time."
    if kind == "phone":
        value = f"({draw.randint(201, 989)}) 555-{draw.randint(100, 199):04d}"
        return kind, value, f"Call us at {value} on weekdays."
    if kind == "ipv4":
        value = f"{draw.choice((31, 81, 93, 145))}.{draw.randint(1, 254)}.{draw.randint(1, 254)}.{draw.randint(1, 254)}"
        return kind, value, f"The last login came from {value} in the morning."
    digits = [4, *(draw.randint(0, 9) for _ in range(14))]
    doubled = sum(d if i % 2 else sum(divmod(2 * d, 10)) for i, d in enumerate(digits))
    value = "".join(map(str, [*digits, -doubled % 10]))
    return kind, value, f"The credit card {value} was charged for the order."


def _keywords(draw: random.Random, found: Texts) -> tuple[str, list[Block]]:
    theme = draw.sample(_STUFFING, 6)
    lines = [" ".join(draw.choices(theme, k=draw.randint(12, 60))) for _ in range(draw.randint(5, 15))]
    return "Best " + " ".join(theme[:3]), [("p", line) for line in lines]


def _lorem(draw: random.Random, found: Texts) -> tuple[str, list[Block]]:
    parts = _LOREM.split(". ")
    return "Untitled page", [("p", ". ".join(draw.choices(parts, k=6)) + ".") for _ in range(draw.randint(3, 7))]


def _repeated(draw: random.Random, found: Texts) -> tuple[str, list[Block]]:
    sentences = found.sentences["manual"]
    lines = [sentences[int(draw.random() * len(sentences))].replace("\n", " ") for _ in range(draw.randint(1, 3))]
    return "Latest posts", [("p", draw.choice(lines)) for _ in range(draw.randint(10, 40))]


def _gibberish(draw: random.Random, found: Texts) -> tuple[str, list[Block]]:
    letters = "abcdefghijklmnopqrstuvwxyz" if draw.random() < 0.5 else "¤§¶¿ÆØßðłŋœxyz#@%&*=+~^|<>"

    def word() -> str:
        return "".join(draw.choices(letters, k=draw.randint(2, 18)))

    return word(), [("p", " ".join(word() for _ in range(draw.randint(20, 80)))) for _ in range(draw.randint(2, 6))]


def _machine(draw: random.Random, found: Texts) -> tuple[str, list[Block]]:
    form = draw.choice(("log", "hex", "csv", "json"))
    n = draw.randint(20, 60)
    if form == "log":
        rows = [
            f"2021-03-{i % 28 + 1:02d} 12:{i % 60:02d}:07 ERROR [{draw.randrange(16**6):06x}] timeout" for i in range(n)
        ]
    elif form == "hex":
        rows = [f"{i * 16:08x}  " + " ".join(f"{draw.randrange(256):02x}" for _ in range(16)) for i in range(n)]
    elif form == "csv":
        rows = [",".join(str(draw.randrange(10**6)) for _ in range(8)) for _ in range(n)]
    else:
        keys = ("key", "low", "high", "total")
        rows = [json.dumps({k: draw.randrange(10**5) for k in keys} | {"ok": i % 9 > 0}) for i in range(n)]
    return f"output.{form}", [("pre", "\n".join(rows))]


def _furniture(draw: random.Random, found: Texts) -> tuple[str, list[Block]]:
    items = [f"{draw.choice(_TOPICS).title()} {draw.randint(1, 99)}" for _ in range(draw.randint(10, 40))]
    return "All categories", [("ul", items), ("p", "Read more...")]


def _short(draw: random.Random, found: Texts) -> tuple[str, list[Block]]:
    return "Not found", [
        ("p", draw.choice(("Page not found.", "Please sign in.", "3 comments", "Under construction!")))
    ]


_NOISE = {
    "keywords": _keywords,
    "lorem": _lorem,
    "repeated": _repeated,
    "gibberish": _gibberish,
    "machine": _machine,
    "furniture": _furniture,
    "short": _short,
}


# ---- a page: its address and its furniture ---------------------------------------------------------------------------


@lru_cache(maxsize=_HOSTS)
def host(number: int) -> str:
    """One of the made-up hosts; those of spam say so."""
    topic = _TOPICS[number % len(_TOPICS)]
    return f"www.{topic}{number}.example"


@lru_cache(maxsize=2 * _HOSTS)
def furniture(name: str) -> tuple[list[str], list[str]]:
    """Lines before and after the content of every page of a host."""
    draw = random.Random(f"furniture {name}")
    links = ["Home", "About", "Contact", "Archive", "Login", "Shop", "Blog", "Forum", "Help", "Jobs", "Press"]
    before = [name, *draw.sample(links, draw.randint(4, 8))]
    if draw.random() < 0.7:
        before.append(
            draw.choice(
                (
                    "This website uses cookies to improve your experience. Accept all Reject all",
                    "We use cookies. By continuing you agree to our Cookie Policy.",
                    "Please enable JavaScript to view this page.",
                )
            )
        )
    after = draw.sample(
        ["Share on Facebook", "Tweet", "Pin it", "Email this", "Print", "Read more...", "Leave a comment", "Sign in"],
        draw.randint(2, 6),
    )
    after += [f"{draw.randint(1, 900)} likes", "Related posts", *(f"{t.title()} news" for t in draw.sample(_TOPICS, 3))]
    after += [f"© {draw.randint(2005, 2023)} {name}. All rights reserved.", "Privacy policy | Terms of use"]
    return before, after


def address(page: Page, of: Plan) -> tuple[str, str]:
    """(host, URL) of a page."""
    origin = of.pages[page.of] if page.kind in ("exact", "mirror") else page
    draw = random.Random(f"{of.seed} address {origin.number}")
    name = host(int(draw.random() * _HOSTS))
    if page.kind in ("keywords", "lorem") and page is origin:
        name = f"cheap-{draw.choice(_STUFFING)}{draw.randint(1, 30)}.example"
    path = f"/{draw.randint(2009, 2023)}/{origin.domain}/{origin.number}.html"
    if page.kind == "mirror":
        name = f"mirror{page.number % 7}.{name.removeprefix('www.')}"
    return name, f"http://{name}{path}" + (f"?utm_source=feed{page.number}" if page.kind == "exact" else "")


def identity(page: Page, of: Plan) -> str:
    """The record's id: a UUID that seed and number decide."""
    return str(uuid.UUID(hashlib.sha256(f"{of.seed} {page.number}".encode()).hexdigest()[:32]))


def date(page: Page, of: Plan) -> str:
    """When it was fetched (ISO 8601)."""
    if page.fault == "absurd date":
        return "9999-99-99T99:99:99Z"
    n = int(unit(f"{of.seed} date {page.number}") * 365 * 5)
    return f"{2019 + n // 365}-{n % 365 // 31 + 1:02d}-{n % 28 + 1:02d}T{n % 24:02d}:{n % 60:02d}:00Z"


def as_text(made: Content, name: str) -> str:
    """The page as a plain converter gives it: furniture and all."""
    before, after = furniture(name)
    lines = [made.title]
    for tag, block in made.blocks:
        if tag == "table":
            lines += ["\t".join(row) for row in block]
        elif tag == "ul":
            lines += block
        elif tag == "math":
            lines.append(f"$${block}$$")
        else:
            lines.append(block)
    return "\n".join([*before, *lines, *after])


def as_html(made: Content, name: str) -> str:
    """The page as its server sends it."""
    before, after = furniture(name)
    menu = "".join(f'<li><a href="/{i}">{html.escape(t)}</a></li>' for i, t in enumerate(before[1:]))
    parts = [
        f'<!DOCTYPE html>\n<html lang="{made.language}"><head><meta charset="utf-8"><title>{html.escape(made.title)}'
        f"</title><script>var page = {{id: 1}};</script><style>nav {{ float: left }}</style></head>\n<body><header>"
        f'<a href="/">{name}</a></header><nav class="menu"><ul>{menu}</ul></nav>\n<main><article><h1>'
        f"{html.escape(made.title)}</h1>"
    ]
    for tag, block in made.blocks:
        if tag == "p":
            parts.append(f"<p>{html.escape(block)}</p>")
        elif tag == "pre":
            parts.append(f"<pre><code>{html.escape(block)}</code></pre>")
        elif tag == "math":
            parts.append(f'<p><span class="math-container">$${html.escape(block)}$$</span></p>')
        elif tag == "ul":
            parts.append("<ul>" + "".join(f"<li><a href='#'>{html.escape(i)}</a></li>" for i in block) + "</ul>")
        else:
            rows = ("".join(f"<td>{html.escape(c)}</td>" for c in row) for row in block)
            parts.append("<table>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>")
    foot = "".join(f"<div class='share'>{html.escape(t)}</div>" for t in after[:-2])
    parts.append(
        f"</article></main>\n<aside>{foot}</aside><footer>{html.escape(after[-2])}<br>{after[-1]}</footer></body></html>"
    )
    return "\n".join(parts)


# ---- files -----------------------------------------------------------------------------------------------------------


def _broken_text(page: Page, text: str, row: dict[str, Any]) -> bytes:
    """The line of a broken page: what is wrong with it is `page.fault`."""
    if page.fault == "nul and control characters":
        row["text"] = text[:100] + "\x00\x01\x07\x1b[2J\x7f\r\n" + text[100:]
    elif page.fault == "empty":
        row["text"] = " \n"
    elif page.fault == "deep json":
        return b'{"text": ' + b"[" * 5000 + b"]" * 5000 + b"}"
    elif page.fault == "bomb":
        row["text"] = " " * 2_000_000
    line = json.dumps(row, ensure_ascii=False).encode()
    if page.fault == "bad utf-8":
        return line.replace(b'"text": "', b'"text": "\xff\xfe\xc3(', 1)
    return line[: len(line) // 2] if page.fault == "truncated" else line


def _broken_body(page: Page, body: bytes) -> bytes:
    if page.fault == "bad utf-8":
        return body.replace(b"<h1>", b"<h1>\xff\xfe\xc3(", 1)
    if page.fault == "nul and control characters":
        return body.replace(b"<h1>", b"<h1>\x00\x01\x07\x1b[2J\x7f", 1)
    if page.fault == "empty":
        return b""
    if page.fault == "deep json":
        return b"<html><body>" + b"<div>" * 5000 + b"deep" + b"</div>" * 5000 + b"</body></html>"
    return b"<html><body><p>" + b" " * 2_000_000 + b"</p></body></html>" if page.fault == "bomb" else body


def _warc(kind: str, identity: str, url: str, when: str, block: bytes) -> bytes:
    """One WARC/1.0 record."""
    mime = "application/http; msgtype=response" if kind == "response" else "application/warc-fields"
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Record-ID: <urn:uuid:{identity}>\r\nWARC-Date: {when}\r\n"
    if url:
        head += f"WARC-Target-URI: {url}\r\n"
    head += f"Content-Type: {mime}\r\nContent-Length: {len(block)}\r\n\r\n"
    return head.encode() + block + b"\r\n\r\n"


def record(page: Page, of: Plan, made: Content, name: str, url: str) -> bytes:
    """The page as a member of a WARC file: its gzip bytes."""
    body = _broken_body(page, as_html(made, name).encode())
    length = len(body) + (1000 if page.fault == "truncated" else 0)
    http = (
        f"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {length}\r\n\r\n".encode() + body
    )
    return _member(_warc("response", identity(page, of), url, date(page, of), http))


def _member(data: bytes) -> bytes:
    return gzip.compress(data, compresslevel=1, mtime=0)


def write_shard(of: Plan, shard: int, out: Path, formats: Sequence[str]) -> dict[str, Any]:
    """Write one file of each format and its lines of truth; returns counts."""
    import zstandard

    truth = out / f"truth-{shard:05d}.part"
    name = f"crawl-{shard:05d}"
    lines, warc = io.BytesIO(), None
    counts = {"pages": 0, "text_bytes": 0}
    if "warc" in formats:
        warc = (out / "warc" / f"{name}.warc.gz").open("wb")
        info = _warc(
            "warcinfo", str(uuid.UUID(int=shard)), "", "2024-01-01T00:00:00Z", b"software: tilth bench/crawl.py\r\n"
        )
        warc.write(_member(info))
    with truth.open("w", encoding="utf-8") as file:
        for number in of.shards[shard]:
            page = of.pages[number]
            made = content(page, of)
            site, url = address(page, of)
            text = as_text(made, site)
            row = {"id": identity(page, of), "text": text, "url": url, "date": date(page, of)}
            data = _broken_text(page, text, row) if page.fault else json.dumps(row, ensure_ascii=False).encode()
            lines.write(data + b"\n")
            if warc:
                warc.write(record(page, of, made, site, url))
            counts["pages"] += 1
            counts["text_bytes"] += len(text.encode())
            file.write(json.dumps(_truth(page, of, made, url, text), ensure_ascii=False) + "\n")
    if warc:
        warc.close()
    if "text" in formats:
        packed = zstandard.ZstdCompressor(level=3).compress(lines.getvalue())
        (out / "text" / f"{name}.jsonl.zst").write_bytes(packed)
    return counts


def _truth(page: Page, of: Plan, made: Content, url: str, text: str) -> dict[str, Any]:
    return {
        "id": identity(page, of),
        "number": page.number,
        "url": url,
        "kind": page.kind,
        "wanted": page.kind in WANTED,
        "domain": page.domain if page.kind not in _NOISE and page.kind != "foreign" else "",
        "language": made.language,
        "of": identity(of.pages[page.of], of) if page.of >= 0 else None,
        "edit_rate": page.rate,
        "fault": page.fault,
        "pii": dict(sorted(made.pii.items())),
        "planted": made.planted,
        "bytes": len(text.encode()),
    }


def generate(
    out: str | Path,
    megabytes: float,
    seed: int = 0,
    formats: Sequence[str] = ("text", "warc"),
    broken: bool = True,
    workers: int = 1,
    corpora: str | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> dict[str, Any]:
    """Write a crawl to the folder `out` and return its summary, also written to `crawl.json`.

    megabytes  of text, in millions of bytes, approximately
    formats    text (jsonl.zst), warc
    broken     whether some records cannot be read
    workers    processes; they change nothing in the files
    """
    out = Path(out)
    for name in formats:
        (out / name).mkdir(parents=True, exist_ok=True)
    how = (seed, megabytes, corpora, broken, shard_bytes)
    asked = plan(*how)
    jobs = range(len(asked.shards))
    if workers > 1 and len(jobs) > 1:
        with ProcessPoolExecutor(min(workers, len(jobs)), initializer=_begin, initargs=how) as pool:
            counts = list(pool.map(_work, jobs, [str(out)] * len(jobs), [tuple(formats)] * len(jobs)))
    else:
        counts = [write_shard(asked, shard, out, formats) for shard in jobs]
    kinds: Counter[str] = Counter(p.kind for p in asked.pages)
    with (out / "truth.jsonl").open("wb") as file:
        for shard in jobs:
            part = out / f"truth-{shard:05d}.part"
            file.write(part.read_bytes())
            part.unlink()
    with (out / "held-out.jsonl").open("w", encoding="utf-8") as file:
        for row in texts(corpora).held_out:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    summary = {
        "seed": seed,
        "megabytes": megabytes,
        "broken": broken,
        "pages": len(asked.pages),
        "text_bytes": sum(c["text_bytes"] for c in counts),
        "files": len(asked.shards),
        "kinds": dict(kinds.most_common()),
    }
    (out / "crawl.json").write_text(json.dumps(summary, indent=1) + "\n")
    return summary


_PLAN: Plan | None = None


def _begin(*how: Any) -> None:
    global _PLAN
    _PLAN = plan(*how)


def _work(shard: int, out: str, formats: tuple[str, ...]) -> dict[str, Any]:
    assert _PLAN is not None
    return write_shard(_PLAN, shard, Path(out), formats)


def main() -> None:
    """Make a crawl."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--megabytes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shard-megabytes", type=float, default=SHARD_BYTES / 1e6, help="text per file")
    parser.add_argument("--formats", default="text,warc")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--corpora", help="folder of the shared corpora; default: beside the repository")
    parser.add_argument("--no-broken", action="store_true", help="every record can be read")
    asked = parser.parse_args()
    formats = asked.formats.split(",")
    summary = generate(
        asked.out,
        asked.megabytes,
        asked.seed,
        formats,
        not asked.no_broken,
        asked.workers,
        asked.corpora,
        int(asked.shard_megabytes * 1e6),
    )
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
