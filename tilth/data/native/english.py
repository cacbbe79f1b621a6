"""English tokens as spaCy's blank `en` pipeline cuts them (spaCy 3.8, MIT licence), which DataTrove counts as words.

A text is cut at white space into chunks. A chunk that is a known exception ("don't", "Mr.", ":-)") has fixed tokens;
else prefixes and suffixes are taken off in turns, what remains is an exception, a web address or cut at infixes; last,
exceptions among the neighbouring tokens are put together again. Here in regular expressions, as the specification of
the compiled form (text_english.hpp). Two things are left out: tokens of white space, and exceptions that reach over
white space, which spaCy looks for and then leaves as they are.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Iterator

import numpy as np

from . import unicode

Pieces = tuple[str, ...]


# ---- classes of characters -----------------------------------------------------------------------------------------

_CASED = (
    "41-5a 61-7a c0-d6 d8-f6 f8-1bf 1c4-2af 386 388-38a 38c 38e-38f 391-3a9 3ac-3af 3b1-3c9 3cc-3ce 400-401 403-40a "
    "40c-40d 410-451 453-45a 45c-45d 490-491 496-497 4a2-4a3 4ae-4af 4ba-4bb 4d8-4d9 4e8-4e9 1d00-1d25 1d6b-1d77 "
    "1d79-1d9a 1e00-1eff 2c60-2c7b 2c7e-2c7f a722-a76f a771-a787 a78b-a78e a790-a7b9 a7fa ab30-ab5a ab60-ab64 "
    "ff21-ff3a ff41-ff5a"
)
_UNCASED = (
    "591-5f4 620-64a 66e-6d5 6e5-6ff 750-77f 8a0-8bd 900-9ff b80-cff d80-dff 1100-137f 2e80-2fdf 2ff0-30ff 31c0-31ef "
    "3200-4dbf 4e00-9fff ac00-d7af f900-faff fb1d-fbb1 fbd3-fd3d fd50-fdc7 fdf0-fdfb fe30-fe4f fe70-fefc 1ee00-1eebb "
    "1f200-1f2ff 20000-2a6df 2a700-2ebef 2f800-2fa1f"
)
_ICONS = (
    "a6 a9 ae b0 482 58d-58e 60e-60f 6de 6e9 6fd-6fe 7f6 9fa b70 bf3-bf8 bfa c7f d4f d79 f01-f03 f13 f15-f17 "
    "f1a-f1f f34 f36 f38 fbe-fc5 fc7-fcc fce-fcf fd5-fd8 109e-109f 1390-1399 1940 19de-19ff 1b61-1b6a 1b74-1b7c "
    "2100-2101 2103-2106 2108-2109 2114 2116-2117 211e-2123 2125 2127 2129 212e 213a-213b 214a 214c-214d 214f "
    "218a-218b 2195-2199 219c-219f 21a1-21a2 21a4-21a5 21a7-21ad 21af-21cd 21d0-21d1 21d3 21d5-21f3 2300-2307 "
    "230c-231f 2322-2328 232b-237b 237d-239a 23b4-23db 23e2-2426 2440-244a 249c-24e9 2500-25b6 25b8-25c0 "
    "25c2-25f7 2600-266e 2670-2767 2794-27bf 2800-28ff 2b00-2b2f 2b45-2b46 2b4d-2b73 2b76-2b95 2b98-2bc8 "
    "2bca-2bfe 2ce5-2cea 2e80-2e99 2e9b-2ef3 2f00-2fd5 2ff0-2ffb 3004 3012-3013 3020 3036-3037 303e-303f "
    "3190-3191 3196-319f 31c0-31e3 3200-321e 322a-3247 3250 3260-327f 328a-32b0 32c0-32fe 3300-33ff 4dc0-4dff "
    "a490-a4c6 a828-a82b a836-a837 a839 aa77-aa79 fdfd ffe4 ffe8 ffed-ffee fffc-fffd 10137-1013f 10179-10189 "
    "1018c-1018e 10190-1019b 101a0 101d0-101fc 10877-10878 10ac8 1173f 16b3c-16b3f 16b45 1bc9c 1d000-1d0f5 "
    "1d100-1d126 1d129-1d164 1d16a-1d16c 1d183-1d184 1d18c-1d1a9 1d1ae-1d1e8 1d200-1d241 1d245 1d300-1d356 "
    "1d800-1d9ff 1da37-1da3a 1da6d-1da74 1da76-1da83 1da85-1da86 1ecac 1f000-1f02b 1f030-1f093 1f0a0-1f0ae "
    "1f0b1-1f0bf 1f0c1-1f0cf 1f0d1-1f0f5 1f110-1f16b 1f170-1f1ac 1f1e6-1f202 1f210-1f23b 1f240-1f248 1f250-1f251 "
    "1f260-1f265 1f300-1f3fa 1f400-1f6d4 1f6e0-1f6ec 1f6f0-1f6f9 1f700-1f773 1f780-1f7d8 1f800-1f80b 1f810-1f847 "
    "1f850-1f859 1f860-1f887 1f890-1f8ad 1f900-1f90b 1f910-1f93e 1f940-1f970 1f973-1f976 1f97a 1f97c-1f9a2 "
    "1f9b0-1f9b9 1f9c0-1f9c2 1f9d0-1f9ff 1fa60-1fa6d "
)
_PUNCTUATION = "…,:;!?¿؟¡()[]{}<>_#*&。？！，、；：～·।،۔؛٪"
_QUOTES = "'\"”“`‘´’‚,„»«「」『』（）〔〕【】《》〈〉\u2329\u232a⟦⟧"
_CURRENCY = "$£€¥฿₽﷼₴₠₡₢₣₤₥₦₧₨₩₪₫₭₮₯₰₱₲₳₵₶₷₸₹₺₻₼₾₿"
_LETTER_CURRENCY = ("US$", "C$", "A$")
UNITS = (
    "km km² km³ m m² m³ dm dm² dm³ cm cm² cm³ mm mm² mm³ ha µm nm yd in ft kg g mg µg t lb oz m/s km/h kmh mph hPa Pa "
    "mbar mb MB kb KB gb GB tb TB T G M K % км км² км³ м м² м³ дм дм² дм³ см см² см³ мм мм² мм³ нм кг г мг м/с км/ч "
    "кПа Па мбар Кб КБ кб Мб МБ мб Гб ГБ гб Тб ТБ тбكم كم² كم³ م م² م³ سم سم² سم³ مم مم² مم³ كم غرام جرام جم كغ ملغ "
    "كوب اكواب"
).split()

MARKS = frozenset(
    "!/—”:％１〈&(、━\\【#%「」，】；+^]~“《„';’{|∶´[=-`*．（–？！：$～«〉,><》)?）。…@_.\"}►»"
    + "".join(map(chr, itertools.chain(range(9), range(11, 32), range(127, 160))))
)
"""Characters that make no word (DataTrove's PUNCTUATION_SET, with `TERMINAL`)."""
TERMINAL = frozenset(
    "!.?\u0589\u061d\u061e\u061f\u06d4\u0700\u0701\u0702\u07f9\u0837\u0839\u083d\u083e\u0964\u0965\u104a\u104b"
    "\u1362\u1367\u1368\u166e\u1735\u1736\u17d4\u17d5\u17d6\u17d9\u17da\u1803\u1809\u1944\u1945\u1aa8\u1aa9\u1aaa"
    "\u1aab\u1b5a\u1b5b\u1b5e\u1b5f\u1b7d\u1b7e\u1c3b\u1c3c\u1c7e\u1c7f\u203c\u203d\u2047\u2048\u2049\u2e2e\u2e3c"
    "\u2e53\u2e54\u3002\ua4ff\ua60e\ua60f\ua6f3\ua6f7\ua876\ua877\ua8ce\ua8cf\ua92f\ua9c8\ua9c9\uaa5d\uaa5e\uaa5f"
    "\uaaf0\uaaf1\uabeb\ufe52\ufe56\ufe57\uff01\uff0e\uff1f\uff61\U00010a56\U00010a57\U00010f55\U00010f56"
    "\U00010f57\U00010f58\U00010f59\U00010f86\U00010f87\U00010f88\U00010f89\U00011047\U00011048\U000110be"
    "\U000110bf\U000110c0\U000110c1\U00011141\U00011142\U00011143\U000111c5\U000111c6\U000111cd\U000111de"
    "\U000111df\U00011238\U00011239\U0001123b\U0001123c\U000112a9\U0001144b\U0001144c\U000115c2\U000115c3"
    "\U000115c9\U000115ca\U000115cb\U000115cc\U000115cd\U000115ce\U000115cf\U000115d0\U000115d1\U000115d2"
    "\U000115d3\U000115d4\U000115d5\U000115d6\U000115d7\U00011641\U00011642\U0001173c\U0001173d\U0001173e"
    "\U00011944\U00011946\U00011a42\U00011a43\U00011a9b\U00011a9c\U00011c41\U00011c42\U00011ef7\U00011ef8"
    "\U00011f43\U00011f44\U00016a6e\U00016a6f\U00016af5\U00016b37\U00016b38\U00016b44\U00016e98\U0001bc9f"
    "\U0001da88"
)
"""Characters that end a sentence in some script (DataTrove's TERMINAL_PUNCTUATION)."""
SENTENCE_ENDS = TERMINAL - frozenset(
    "\u061d\u061e\u0837\u0839\u083d\u083e\u17d4\u17d5\u17d6\u17d9\u17da\u1b7d\u1b7e\u2e53\u2e54\U00010f55"
    "\U00010f56\U00010f57\U00010f58\U00010f59\U00010f86\U00010f87\U00010f88\U00010f89\U00011944\U00011946"
    "\U00011ef7\U00011ef8\U00011f43\U00011f44\U00016e98"
)
"""Tokens that end a sentence (spaCy's sentencizer)."""


def _codes(ranges: str) -> set[int]:
    out: set[int] = set()
    for part in ranges.split():
        low, _, high = part.partition("-")
        out.update(range(int(low, 16), int(high or low, 16) + 1))
    return out


@functools.cache
def sets() -> dict[str, set[int]]:
    """Name -> code points of the classes that the rules speak of."""
    cased, uncased, icons = _codes(_CASED), _codes(_UNCASED), _codes(_ICONS)
    # ʔ is listed as lower case and the unassigned U+03A2 stands in a range of capitals.
    lower = uncased | {c for c in cased if chr(c).islower() or c == 0x294}
    upper = uncased | {c for c in cased if chr(c).isupper() or c == 0x3A2}
    quotes = set(map(ord, _QUOTES))
    punctuation = set(map(ord, _PUNCTUATION))
    return {
        "ALPHA": cased | uncased,
        "LOWER": lower,
        "UPPER": upper,
        "QUOTE": quotes,
        "AFFIX": punctuation | quotes | icons | set(map(ord, "—–")),
        "PREFIX": set(map(ord, "§%=" + _CURRENCY)),
        "BEFORE_DOT": lower | punctuation | quotes | set(map(ord, "%²-+|?:()")),
        "INFIX": icons | {ord("…")},
        "MARK": set(map(ord, MARKS | TERMINAL)),
        "TERMINAL": set(map(ord, TERMINAL)),
        "SENTENCE": set(map(ord, SENTENCE_ENDS)),
    }


@functools.cache
def classes() -> np.ndarray:
    """uint16 [0x110000]: bit set per code point, those of `sets` first, then five that Python itself tells."""
    out = np.zeros(0x110000, dtype=np.uint16)
    for bit, members in enumerate(sets().values()):
        out[sorted(members)] |= np.uint16(1 << bit)
    known = unicode.flags()
    for bit, name in enumerate(("PUNCTUATION", "ALPHA", "DECIMAL", "SPACE", "LINE_BREAK"), start=11):
        has = known >> np.uint32(list(unicode.BITS).index(name)) & np.uint32(1)
        out |= has.astype(np.uint16) << np.uint16(bit)
    return out


# ---- exceptions ----------------------------------------------------------------------------------------------------

_WHOLE = r"""
\t \n \") <space> '' ' C++ — 'S 's ‘S ‘s and/or w/o 're 'd 'Cause 'cause 'cos 'Cos 'coz 'Coz 'cuz 'Cuz 'bout ma'am
Ma'am o'clock O'clock em 'em ll 'll nuff 'nuff ä. ö. ü.
lovin lovin' Lovin Lovin' havin havin' Havin Havin' doin doin' Doin Doin' goin goin' Goin Goin' nothin nothin' Nothin
Nothin' nuthin nuthin' Nuthin Nuthin' ol ol' Ol Ol' somethin somethin' Somethin Somethin'
Mt. Ak. Ala. Apr. Ariz. Ark. Aug. Calif. Colo. Conn. Dec. Del. Feb. Fla. Ga. Ia. Id. Ill. Ind. Jan. Jul. Jun. Kan. Kans.
Ky. La. Mar. Mass. Mich. Minn. Miss. N.C. N.D. N.H. N.J. N.M. N.Y. Neb. Nebr. Nev. Nov. Oct. Okla. Ore. Pa. S.C. Sep.
Sept. Tenn. Va. Wash. Wis. a.m. Adm. Bros. co. Co. Corp. D.C. Dr. e.g. E.g. E.G. Gen. Gov. i.e. I.e. I.E. Inc. Jr. Ltd.
Md. Messrs. Mo. Mont. Mr. Mrs. Ms. p.m. Ph.D. Prof. Rep. Rev. Sen. St. vs. v.s.
(*_*) (-8 (-: (-; (-_-) (._.) (: (; (= (>_<) (^_^) (o: (¬_¬) (ಠ_ಠ) (╯°□°）╯︵┻━┻ )-: ): -_- -__- ._. 0.0 0.o 0_0 0_o 8)
8-) 8-D 8D :'( :') :'-( :'-) :( :(( :((( :() :) :)) :))) :* :-( :-(( :-((( :-) :-)) :-))) :-* :-/ :-0 :-3 :-> :-D :-O
:-P :-X :-] :-o :-p :-x :-| :-} :/ :0 :1 :3 :> :D :O :P :X :] :o :o) :p :x :| :} ;) ;-) ;-D ;D ;_; <.< </3 <3 <33 <333
=( =) =/ =3 =D =[ =] =| >.< >.> >:( >:o ><(((*> @_@ O.O O.o O_O O_o V.V V_V XD XDD [-: [: [= ]= ^_^ ^__^ ^___^ o.0 o.O
o.o o_0 o_O o_o v.v v_v xD xDD ¯\(ツ)/¯ ಠ_ಠ ಠ︵ಠ
"""
_PARTED = """
y'|all y|all how|'d|'y How|'d|'y not|'ve not|ve Not|'ve Not|ve can|not Can|not gon|na Gon|na got|ta Got|ta let|'s Let|'s
c'm|on C'm|on I|'m|a i|'m|a I|m|a i|m|a I|'m i|'m I|m i|m
"""
_NO_EXCEPTIONS = frozenset("Ill ill Its its Hell hell Shell shell Shed shed were Were Well well Whore whore".split())


@functools.cache
def exceptions() -> dict[str, Pieces]:
    """Chunk -> its tokens."""
    out: list[Pieces] = [(w,) for w in _WHOLE.split()]
    out += [(f"{c}.",) for c in map(chr, range(ord("a"), ord("z") + 1))]
    out += [("°", c, ".") for c in "cfkCFK"]
    out += [tuple(entry.split("|")) for entry in _PARTED.split()]
    out += [(str(h), half) for h in range(1, 13) for half in ("a.m.", "am", "p.m.", "pm")]

    def contract(words: str, *endings: str) -> None:
        """Each word, as it stands and capitalised, with each ending; then the same without apostrophes."""
        for word, ending in itertools.product(words.split(), endings):
            for form in (word, word.title()):
                parts = (form, *ending.split("|"))
                out.extend([parts, tuple(p.replace("'", "") for p in parts)])

    contract("i you he she it we they", "'ll", "'ll|'ve", "'d", "'d|'ve")
    contract("i you we they", "'ve")
    contract("you we they", "'re")
    contract("he she it", "'s")
    contract("who what when where why how there that this these those", "'ll", "'ll|'ve", "'d", "'d|'ve")
    contract("who what when where why how there these those", "'re", "'ve")
    contract("who what when where why how there that this", "'s")
    contract("ca could do does did had may might must need ought sha should wo would", "n't", "n't|'ve")
    contract("could might must should would", "'ve")
    contract("ai are is was were have has dare", "n't")
    out += [tuple(p.replace("'", "’") for p in pieces) for pieces in out]
    return {text: pieces for pieces in out if (text := "".join(pieces)) not in _NO_EXCEPTIONS}


# ---- the tokenizer in plain Python ---------------------------------------------------------------------------------


def _class(codes: Iterable[int]) -> str:
    """Code points as the ranges of a class of characters."""
    ranges: list[list[int]] = []
    for c in sorted(codes):
        if ranges and ranges[-1][1] == c - 1:
            ranges[-1][1] = c
        else:
            ranges.append([c, c])
    return "".join(f"\\U{low:08x}-\\U{high:08x}" for low, high in ranges)


class _Patterns:
    def __init__(self) -> None:
        group = {name: _class(codes) for name, codes in sets().items()}
        affix, currency = f"[{group['AFFIX']}]", "|".join(map(re.escape, (*_CURRENCY, *_LETTER_CURRENCY)))
        letter, lower, upper, quote = group["ALPHA"], group["LOWER"], group["UPPER"], group["QUOTE"]
        self.prefix = re.compile(rf"{affix}|[§%=]|\+(?![0-9])|\.\.+|{currency}")
        units = "|".join(map(re.escape, UNITS))
        suffixes = [affix, r"……", r"\.\.+", "['’][sS]", r"(?<=[0-9])\+", r"(?<=°[FfCcKk])\."]
        suffixes += [rf"(?<=[0-9])(?:{currency}|{units})", rf"(?<=[0-9{group['BEFORE_DOT']}])\."]
        suffixes += [rf"(?<=[{upper}][{upper}])\."]
        self.suffix = re.compile(f"(?:{'|'.join(suffixes)})$")
        infixes = [r"\.\.+", f"[{group['INFIX']}]", r"(?<=[0-9])[+\-*^](?=[0-9-])"]
        infixes += [rf"(?<=[{lower}{quote}])\.(?=[{upper}{quote}])", rf"(?<=[{letter}]),(?=[{letter}])"]
        infixes += [rf"(?<=[{letter}0-9])(?:-{{1,3}}|–|—{{1,2}}|~)(?=[{letter}])"]
        infixes += [rf"(?<=[{letter}0-9])[:<>=/](?=[{letter}])"]
        self.infix = re.compile("|".join(infixes))
        name = r"A-Za-z0-9\u00a1-\uffff"
        address = (
            r"(?!(?:10|127)(?:\.\d{1,3}){3})(?!(?:169\.254|192\.168)(?:\.\d{1,3}){2})"
            r"(?!172\.(?:1[6-9]|2\d|3[01])(?:\.\d{1,3}){2})(?:[1-9]\d?|1\d\d|2[01]\d|22[0-3])"
            r"(?:\.(?:1?\d{1,2}|2[0-4]\d|25[0-5])){2}\.(?:[1-9]\d?|1\d\d|2[0-4]\d|25[0-4])"
        )
        domain = rf"(?:(?:[{name}][{name}_-]{{0,62}})?[{name}]\.)+[{lower}]{{2,63}}"
        self.url = re.compile(
            rf"(?:[\w+\-.]{{2,}}://)?(?:\S+@)?(?:{address}|{domain})(?::\d{{2,5}})?(?:[/?#]\S*)?", re.UNICODE
        )


@functools.cache
def _patterns() -> _Patterns:
    return _Patterns()


def tokenize(text: str) -> Iterator[str]:
    """The tokens of a text that are not white space."""
    for chunk in text.split():
        yield from chunk_tokens(chunk)


@functools.lru_cache(1 << 14)
def chunk_tokens(chunk: str) -> Pieces:
    """The tokens of one chunk."""
    tokens = _split(chunk, exceptions())
    return _rejoined(tokens) if len(tokens) > 1 else tokens


def _split(text: str, known: dict[str, Pieces]) -> Pieces:
    rules = _patterns()
    front: list[str] = []
    back: list[str] = []
    before = None
    while text and text != before and text not in known:
        before = text
        found = rules.prefix.match(text)
        prefix = found[0] if found else ""
        if prefix and text[len(prefix) :] in known:
            front.append(prefix)
            text = text[len(prefix) :]
            break
        found = rules.suffix.search(text[len(prefix) :])
        suffix = found[0] if found else ""
        if suffix and text[: -len(suffix)] in known:
            back.append(suffix)
            text = text[: -len(suffix)]
            break
        front += [prefix] * bool(prefix)
        back += [suffix] * bool(suffix)
        text = text[len(prefix) : len(text) - len(suffix)]
    middle = _inside(text, known) if text else ()
    return (*front, *middle, *reversed(back))


def _inside(text: str, known: dict[str, Pieces]) -> Pieces:
    if text in known:
        return known[text]
    if "." in text and _patterns().url.fullmatch(text):
        return (text,)
    out, start = [], 0
    for found in _patterns().infix.finditer(text):
        if found.start() == 0:
            continue  # one that stands first stays with what follows
        out += [text[start : found.start()], found[0]]
        start = found.end()
    return tuple(token for token in (*out, text[start:]) if token)


@functools.cache
def _taken_apart() -> tuple[frozenset[Pieces], int]:
    """Exceptions as the affix rules alone would cut them, and the most tokens of one."""
    rules = _patterns()
    apart = [t for t in exceptions() if rules.prefix.match(t) or rules.suffix.search(t) or rules.infix.search(t)]
    cut = frozenset(_split(text, {}) for text in apart)
    return cut, max(map(len, cut))


def _rejoined(tokens: Pieces) -> Pieces:
    """The tokens with exceptions that were taken apart put in again: the longest first, the earlier of equals."""
    cut, most = _taken_apart()
    places = range(len(tokens))
    found = [(i - j, i, j) for i in places for j in range(i + 1, min(len(tokens), i + most) + 1) if tokens[i:j] in cut]
    stops: dict[int, int] = {}
    seen: set[int] = set()
    for _, i, j in sorted(found):
        if i not in seen and j - 1 not in seen:
            stops[i] = j
        seen.update(range(i, j))
    out: list[str] = []
    i = 0
    while i < len(tokens):
        j = stops.get(i, i + 1)
        out += exceptions()["".join(tokens[i:j])] if i in stops else tokens[i:j]
        i = j
    return tuple(out)


# ---- the same for the compiled form --------------------------------------------------------------------------------


def packed_exceptions() -> bytes:
    """`exceptions` for text_english.hpp: each piece ends in \\1, each entry in \\2."""
    return b"".join(b"".join(p.encode() + b"\1" for p in pieces) + b"\2" for pieces in exceptions().values())


def packed_units() -> np.ndarray:
    """uint32: the code points of what may follow a digit, each with a 0 at its end."""
    endings = (*UNITS, *_CURRENCY, *_LETTER_CURRENCY)
    return np.array([ord(c) for ending in endings for c in ending + "\0"], dtype=np.uint32)
