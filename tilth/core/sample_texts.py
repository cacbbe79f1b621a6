"""Texts on which two tokenizers that should agree are compared: what cuts words, joins letters or is easily lost."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from .streams import stream

_FIXED = (
    "",
    "a",
    "In 2001 there were 118 boats, 1234567890 of them at 3.14159e-10 and -007.50; 1,000,000 or 10%.",
    "٣٤٥ १२३ ⅔ x² H₂O ½ Ⅷ ① ㊷",
    "  two  spaces   three\ttab\t\ttabs \n line\n\n lines\r\nDOS\r\n \n  indented:\n    return x\n\n\n",
    " leading",
    "trailing ",
    "\n",
    "   ",
    "I'm it's you'll THEY'RE don't we've 'quoted' l'été D'Artagnan",
    "camelCase snake_case SCREAMING x=1;y+=2 // comment /* more */ <b>bold</b> &amp; a.b.c(d)[0]{e}",
    "https://example.org/a?b=c&d=%20e#f user@example.org C:\\dir\\file",
    "café naïve Ångström façade Việt Nam Dvořák ŁÓDŹ Straße ﬁne ﬂow ĳs ſ",
    "ÅK Ω½ ¨ ́",
    "Ελληνικά Кириллица עברית العربية हिन्दी বাংলা ไทย ภาษา ქართული հայերեն አማርኛ ភាសា",
    "中文，標點。日本語のテキスト 한국어 텍스트 ｆｕｌｌ ｗｉｄｔｈ ｶﾀｶﾅ",
    "🙂🙃 👩‍👩‍👧‍👦 🇫🇷 👍🏽 ☕️ 𝔘𝔫𝔦 𝒜 𝄞 \U0010ffff",
    "zero\u200bwidth\u200d soft\u00adhyphen no\u00a0break \u3000wide \u2028sep \ufeffbom \u202eright",
    "\x00\x01\x1b[31m\x7f\x85 controls",
    "—dashes–and… “quotes” «guillemets» ‚low‘ ‹x› §¶†‡•",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "The quick brown fox jumps over the lazy dog. " * 20,
)
_BLOCKS = (
    *((0x20, 0x7F), (0x20, 0x7F), (0x30, 0x3A), (0xA0, 0x250), (0x300, 0x370), (0x370, 0x530), (0x5D0, 0x700)),
    *((0x900, 0xA00), (0xE00, 0xE80), (0x1100, 0x1200), (0x3040, 0x3100), (0x4E00, 0x5E00), (0xAC00, 0xB000)),
    *((0x2000, 0x2070), (0x1F300, 0x1F650), (9, 14), (32, 33), (32, 33)),
)


def sample_texts(specials: Iterable[str] = (), random: int = 100) -> list[str]:
    """Texts in many scripts, composed (NFC) and decomposed (NFD), the given special tokens inside and at the borders
    of text, and `random` strings of characters of all these blocks. The same list every time."""
    out = list(_FIXED)
    out += [unicodedata.normalize(form, text) for text in _FIXED[2:] for form in ("NFC", "NFD")]
    for name in specials:
        out += [name, f"a{name}b 12", f" {name} {name}{name}\n"]
    chosen = stream(0, "sample texts")
    for _ in range(random):
        blocks = chosen.integers(0, len(_BLOCKS), int(chosen.integers(1, 40)))
        out.append("".join(chr(int(chosen.integers(*_BLOCKS[b]))) for b in blocks))
    return list(dict.fromkeys(out))
