"""A mixed bag of documents for the contracts of techniques that read documents: every kind that some rule is about."""

from __future__ import annotations

import random
from collections.abc import Iterator

from tilth.data.document import Document

_WORDS = (
    "the of and to in that with have be from valley market signal engine teacher winter letter garden machine question "
    "answer history measure river paper window doctor station animal reason colour village summer method science"
).split()


def prose(seed: int, sentences: int, per_line: int = 2) -> str:
    """English-like sentences, a few to a line."""
    draw = random.Random(seed)
    said = [
        " ".join(draw.choices(_WORDS, k=draw.randint(6, 18))).capitalize() + draw.choice(".?!.")
        for _ in range(sentences)
    ]
    lines = [" ".join(said[i : i + per_line]) for i in range(0, len(said), per_line)]
    return "\n".join(lines)


def texts() -> Iterator[str]:
    """The bag. Some texts stand twice, some nearly."""
    for i, n in enumerate((1, 3, 6, 10, 20, 40, 80)):
        yield prose(i, n)
    long = prose(3, 60)
    yield long
    yield long
    yield long.replace("river", "stream").replace("winter", "autumn")
    yield long.lower()
    yield long.replace(" ", "  ")
    yield prose(11, 5) + "\n" + "\n".join(long.split("\n")[5:15]) + "\n" + prose(12, 5)
    yield long + "\n\n" + prose(13, 30) + "\n\n" + long
    yield long.upper()
    yield "\n".join(prose(20 + i, 1) for i in range(3)) * 12
    yield "\n".join(
        [
            "Home | News | Contact",
            "Share this on social media",
            "3 likes",
            "Read more...",
            long,
            "Sign in",
            "1 2 3 4 5",
            "items in cart",
        ]
    )
    yield "\n".join(
        ["We use cookies. Read our privacy policy and the terms of use.", prose(31, 12), "Lorem ipsum dolor sit amet."]
    )
    yield prose(32, 12) + "\nPlease enable javascript to see this.\n" + prose(33, 6)
    yield "\n".join(f"- {w} and {v}" for w, v in zip(_WORDS, reversed(_WORDS), strict=True))
    yield "\n".join(f"• {prose(40 + i, 1)}" for i in range(10))
    yield "\n".join(prose(60 + i, 1).rstrip(".?!") + "..." for i in range(10))
    yield " ".join("#" if i % 3 else w for i, w in enumerate(_WORDS * 4))
    yield "\n".join(" ".join(str(random.Random(i * 40 + j).randint(0, 99999)) for j in range(12)) for i in range(12))
    yield "buy cheap now " * 60
    yield "a b c d e f g h i j k l m n o p " * 12
    yield "supercalifragilisticexpialidocious incomprehensibilities " * 20
    yield "x" * 3000 + " " + prose(70, 3)
    yield "word\n" * 90
    yield (
        "# SPDX-License-Identifier: MIT\n# A module of helpers.\nimport os\n\n\ndef area(width, height):\n"
        '    """Product of two sides."""\n    return width * height  # in metres\n\n\nclass Box:\n'
        "    def __init__(self, sides):\n        self.sides = sides\n\n    def volume(self):\n        out = 1\n"
        "        for side in self.sides:\n            out *= side\n        return out\n"
    )
    yield (
        "/*\n * Copyright (C) 2020\n * GNU General Public License as published by the Free Software Foundation\n */\n"
        "int main() { return 0; }\n" * 3
    )
    yield "function f(a) { return a + 1; }\nvar t = {};\n" * 20
    yield '<?xml version="1.0"?>\n<list>\n' + "<item>value</item>\n" * 40 + "</list>"
    yield "<html><head><title>A page</title></head><body><p>" + prose(71, 4) + "</p></body></html>"
    yield '{"name": "thing", "values": [1, 2, 3], "nested": {"a": null}}\n' * 10
    yield (
        r"Let $\frac{a}{b} = \sqrt{x^2 + y^2}$ and \begin{equation} \sum_{i=0}^{n} \alpha_i \leq \beta \end{equation}. "
        * 6
        + prose(72, 6)
    )
    yield ("Proof. Let $x$ be a real number such that $x > 0$. Then \\int_0^1 x dx = 1/2. Solve the theorem. " * 3)
    yield (
        "Write to anna.schmidt@firma.de or call (212) 736-5000 today. The server is 93.184.216.34 or "
        "2606:2800:220:1::1946. Card 4111 1111 1111 1111, key AKIAIOSFODNN7EXAMPLE, version 1.2.3.4567. "
        + prose(73, 10)
    )
    yield (
        "Der schnelle braune Fuchs springt über den faulen Hund, und die Kinder lachen laut im Garten hinter dem Haus. "
        * 6
    )
    yield (
        "Le petit chat noir dort sur la chaise près de la fenêtre, et les enfants jouent dans le jardin après l'école. "
        * 6
    )
    yield "Быстрая коричневая лиса прыгает через ленивую собаку, а дети играют в саду за домом каждый вечер. " * 6
    yield "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。" * 12
    yield "You are a stupid idiot and I hate you, you awful pathetic loser. I will hurt you badly. " * 4 + prose(74, 4)
    yield (
        "Is this a question? Yes. What is the answer? The answer is below. (A) one (B) two (C) three (D) four. B. " * 5
    )
    yield "".join(chr(0x1F600 + i % 60) for i in range(200)) + " " + prose(75, 3)
    yield "Visit https://example.com/a?b=c and http://spam.example.net/" + " https://x.example/y" * 30
    yield "\t\t" + prose(76, 8).replace("\n", "\r\n") + "\u2028" + prose(77, 4)
    yield "e\u0301te\u0301 na\u00efve \ufb01ligree \u200b\u200d \u0130stanbul " * 20
    yield "\n".join(prose(80 + i, 1)[:-1] + "[12]." for i in range(5)) + "\n" + prose(86, 1)[:-1] + ".[citation needed]"
    for i in range(12):
        yield prose(100 + i, 8 + 3 * i, per_line=1 + i % 3)


_URLS = (
    "https://news.example.com/2019/story.html",
    "http://www.adult-example.xxx/porn/page",
    "https://blog.example.org/?p=1",
    "https://shop.example.net/casino-poker/viagra",
    "",
    "https://en.wikipedia.org/wiki/Fox",
    "http://8.8.8.8/x",
)


def documents() -> list[Document]:
    """The bag as documents of two sources, with addresses, dates and metadata of several kinds."""
    out = []
    for i, text in enumerate(texts()):
        metadata = [
            "{}",
            '{"dump": "2019-30"}',
            '{"dump": "2021-04", "year": 2012}',
            '{"language": "python", "ext": "py"}',
        ][i % 4]
        out.append(
            Document(
                id=f"doc-{i:03d}",
                text=text,
                source=("one", "two")[i % 2],
                path=("a.txt", "b.py", "c.md", "d.html", "e.js")[i % 5],
                metadata=metadata,
                url=_URLS[i % len(_URLS)],
                date=("2019-07-04", "", "2013-01-31T10:00:00Z")[i % 3],
                licence=("", "MIT", "GPL-3.0-only")[i % 3],
            )
        )
    for name, text, metadata in _NAMED:
        out.append(Document(f"named-{name}", text, "one", name, metadata))
    return out


_NAMED = (
    ("tiny.json", '{"a": 1}', "{}"),
    ("some.json", '{"name": "thing", "size": 3, "of": "a kind"}\n' * 12, '{"opt_out": true}'),
    ("vast.json", '{"name": "thing", "size": 3, "of": "a kind"}\n' * 300, '{"no_training": true}'),
    ("named", "# a line of text\nx = 1  # and another\n" * 12, '{"name": "module.py"}'),
    ("remarks.py", "# nothing but remarks, each of them of a fair length, so that they count\n" * 20 + "x = 1\n", "{}"),
    ("late.py", "value = 1\n" * 3000 + "# SPDX-License-Identifier: MIT\n", "{}"),
    ("maths.tex", r"\frac{a}{b} \sqrt{x} \sum_i \alpha \beta \gamma \leq \int_0^1 " * 3 + prose(90, 4), "{}"),
    ("few.tex", r"We know that \frac{a}{b} is small. " + prose(91, 4), "{}"),
    ("accents.tex", r"\frac{a}{b} \sqrt{x} \sum_i \alpha \beta " + "été à la fenêtre où l'élève espère " * 8, "{}"),
    (
        "macros.tex",
        "\\newcommand{\\x}{y} \\newcommand{\\z}{w}\n" + r"\frac{a}{b} \sqrt{x} \sum_i \alpha \beta " + prose(92, 4),
        "{}",
    ),
)


STRANGE = (
    "",
    " ",
    "\n",
    "\n\n\n",
    ".",
    "...",
    "\u00a0",
    "\ufeff",
    "\u200b",
    "a",
    "é",
    "e\u0301",
    "\U0001f600",
    "\x01\x02\x1f",
    "\x85",
    "\u2028\u2029",
    "-",
    "•",
    "#",
    "{",
    "'",
    "’s",
    "don't",
    "1",
    "１",
    "٣",
    "ß",
    "İ",
    "\ufffd",
    "日本",
    "a" * 70_000,
    "a " * 20_000,
    "\n" * 5000,
    "[1] [edit] [citation needed]",
    "\\",
    "$$",
    "<",
    "<!--",
    "&amp;",
    "http://",
    "@",
    "a@b",
    "1.2.3.4",
    "::1",
    "4111111111111111",
)
"""Texts at the edges of everything."""
