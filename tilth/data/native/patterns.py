"""Personal data and secrets in texts: where they stand. The plain form, and the compiled one.

What is found is written for few false alarms and no corruption of its surroundings (spec 8): addresses and numbers
have borders on both sides; version numbers, private networks, well-known name servers, example domains, numbers kept
for fiction and the user part of a URL are left; card numbers need Luhn's check and an issuer's prefix, or a word such
as *card* before them. E-mail addresses are of letters and digits of any script, between two separators either Latin
or other ones, so that words written without spaces around them stay; all other classes are ASCII. Work is linear in the
length of the text.
"""

from __future__ import annotations

import ctypes
import functools
import ipaddress
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from tilth.core.native import Unavailable, load

from . import unicode
from .buffers import pointer, texts

log = logging.getLogger(__name__)

KINDS = ("email", "ipv4", "ipv6", "phone", "card", "key")
SPECIAL_IPV4 = (
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24"),
    *("192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
    *("224.0.0.0/4", "240.0.0.0/4"),
)
"""Not of the public internet (IANA's registry of special-purpose addresses), multicast and reserved."""
NAME_SERVERS_IPV4 = (
    *("1.0.0.1", "1.1.1.1", "8.8.4.4", "8.8.8.8", "8.20.247.20", "8.26.56.26", "9.9.9.9", "76.76.19.19"),
    *("76.223.122.150", "94.140.14.14", "94.140.15.15", "149.112.112.112", "208.67.220.220", "208.67.222.222"),
)
"""Public name servers, which BigCode keeps too."""
SPECIAL_IPV6 = ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
NAME_SERVERS_IPV6 = (
    *("2001:4860:4860::8888", "2001:4860:4860::8844", "2606:4700:4700::1111", "2606:4700:4700::1001"),
    *("2620:fe::fe", "2620:fe::9"),
)
FILES = ("png", "jpg", "jpeg", "gif", "svg", "webp", "css", "js", "ts", "json")
"""Not top-level domains: icon@2x.png."""
DOMAINS = (
    *(
        "政府",
        "香港",
        "澳門",
        "台灣",
        "台湾",
        "新加坡",
        "中國",
        "中国",
        "公司",
        "网络",
        "中文网",
        "公益",
        "在线",
        "集团",
    ),
    *(
        "网址",
        "网站",
        "网店",
        "商城",
        "商店",
        "商标",
        "企业",
        "信息",
        "手机",
        "移动",
        "机构",
        "组织机构",
        "政务",
        "我爱你",
    ),
    *(
        "广东",
        "游戏",
        "娱乐",
        "新闻",
        "时尚",
        "餐厅",
        "食品",
        "购物",
        "招聘",
        "健康",
        "慈善",
        "点看",
        "大拿",
        "佛山",
        "微博",
    ),
    *(
        "みんな",
        "コム",
        "ストア",
        "セール",
        "ファッション",
        "クラウド",
        "ポイント",
        "グーグル",
        "アマゾン",
        "書籍",
        "通販",
        "家電",
    ),
    *("한국", "닷넷", "닷컴", "삼성", "ไทย", "คอม", "ລາວ"),
)
"""Top-level domains of scripts whose words are written together with what follows (IANA's root zone)."""
SECRET_NAMES = ("key", "secret", "token", "passwd", "password", "pwd", "credential")
PREFIXES = (
    *(("AKIA", "U", 16, 16), ("ASIA", "U", 16, 16), ("AIza", "D", 35, 35), ("ghp_", "A", 36, 36)),
    *(("gho_", "A", 36, 36), ("ghu_", "A", 36, 36), ("ghs_", "A", 36, 36), ("ghr_", "A", 36, 36)),
    *(("github_pat_", "W", 82, 82), ("glpat-", "D", 20, 40), ("xoxa-", "D", 10, 200), ("xoxb-", "D", 10, 200)),
    *(("xoxp-", "D", 10, 200), ("xoxr-", "D", 10, 200), ("xoxs-", "D", 10, 200), ("sk_live_", "A", 24, 99)),
    *(("rk_live_", "A", 24, 99), ("sk-ant-", "D", 24, 200), ("sk-proj-", "D", 24, 200), ("sk-", "A", 32, 64)),
    *(("hf_", "A", 34, 40), ("npm_", "A", 36, 36)),
)
"""How the keys of known services begin, of what the rest is (U capitals and digits, A letters and digits, W and _,
D and - too), least and most characters of it; there is a digit among them."""


class Match(NamedTuple):
    """Where something stands, in code points."""

    row: int
    kind: int
    """Place in `KINDS`."""
    start: int
    stop: int


# ---- the plain form ----------------------------------------------------------------------------------------------

_WORD, _NO_WORD = r"(?<![A-Za-z0-9_])", r"(?![A-Za-z0-9_])"
_T = r"[A-Za-z0-9_-]"
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_AREA = r"[2-9][0-9]{2}"
_USER = re.compile(r"://[!-.0-?A-~]{0,256}\Z")
_PASSWORD = re.compile(r"://[!-.0-9;-?A-~]*:([!-.0-9;-?A-{}~]+)\Z")
_IPV4 = re.compile(rf"{_WORD}(?<![0-9]\.)(?:{_OCTET}\.){{3}}{_OCTET}{_NO_WORD}(?!\.[0-9])")
_IPV6 = re.compile(r"(?<![A-Za-z0-9_:.])(?=[23][0-9A-Fa-f]{3}:)[0-9A-Fa-f:]{5,45}(?![A-Za-z0-9_:])")
_PHONE = re.compile(
    rf"(?<![A-Za-z0-9_+])(?:\+[1-9](?:[ .()-]{{0,2}}[0-9]){{8,14}}{_NO_WORD}"
    rf"|(?<![0-9][.-])(?:1[-. ])?(?:\({_AREA}\) ?|{_AREA}[-. ]){_AREA}[-.][0-9]{{4}}{_NO_WORD}(?![.-][0-9]))"
)
_CARD = re.compile(
    rf"{_WORD}(?<![0-9][ .-])(?:[0-9]{{13,19}}|[0-9]{{4}}([ -])[0-9]{{4}}\1[0-9]{{4}}\1[0-9]{{4}}(?:\1[0-9]{{3}})?"
    rf"|[0-9]{{4}}([ -])[0-9]{{6}}\2[0-9]{{4,5}}){_NO_WORD}(?![ .-][0-9])"
)
_TOKEN = re.compile(rf"(?<!{_T}){_T}+")
_REST = {"U": r"[A-Z0-9]", "A": r"[A-Za-z0-9]", "W": r"[A-Za-z0-9_]", "D": _T}
_KEY = re.compile("|".join(rf"{prefix}(?=.*[0-9]){_REST[rest]}{{{a},{b}}}" for prefix, rest, a, b in PREFIXES))
_JWT = re.compile(rf"(?<!{_T})eyJ{_T}{{10,4093}}\.eyJ{_T}{{10,4093}}\.{_T}{{13,4096}}(?!{_T})")
_PRIVATE = re.compile(
    r"(?<!-)-----BEGIN [A-Z ]{0,32}?PRIVATE KEY-----[\x00-,.-\x7f]{0,16384}-----END [A-Z ]{0,32}?PRIVATE KEY-----"
)
_ASSIGNED = re.compile(r"[=:][>=]? {0,4}([\"'])([A-Za-z0-9+/=_.!@#$%^&*-]{16,200})\1")
_HASH = re.compile(r"(?:[0-9A-Fa-f]{32}|[0-9A-Fa-f]{40}|[0-9A-Fa-f]{64})\Z")

Span = tuple[int, int]


def _near(text: str, start: int, stop: int, words: tuple[str, ...]) -> bool:
    window = text[max(0, start) : stop].encode().lower()
    return any(word.encode() in window for word in words)


def _valid(text: str, pattern: re.Pattern[str], good: Callable[[str, int, int], bool]) -> Iterator[Span]:
    at = 0
    while found := pattern.search(text, at):
        if good(text, *found.span()):
            yield found.span()
            at = found.end()
        else:
            at = found.start() + 1


def emails(text: str) -> Iterator[Span]:
    """Addresses whose domain has a dot, but for those of example domains, git@, and what is part of a URL."""
    free = 0
    for sign in (m.start() for m in re.finditer("@", text)):
        start = _local(text, max(free, sign - 65), sign)
        domain = _domain(text, sign + 1, min(len(text), sign + 256))
        if start is None or domain is None or _USER.search(text[max(0, start - 259) : start]):
            continue
        top, stop = domain
        last, host = text[top:stop].lower(), text[sign + 1 : stop].lower()
        if text[start:sign].lower() == "git" or last in (*FILES, "example", "invalid", "test"):
            continue
        if any(f".{host}".endswith(f".example.{t}") for t in ("com", "org", "net")):
            continue
        free = stop
        yield start, free


_NONE, _LATIN, _OTHER, _DIGIT, _MARK = range(5)


def _script(c: str) -> int:
    """What a character is in an address: a Latin letter, one of another script, a digit, a mark, or none of these."""
    if c.isascii():
        return _LATIN if c.isalpha() else _DIGIT if c.isdigit() else _NONE
    here = unicode.flags()[ord(c)]
    if here & unicode.bit("LETTER"):
        return _LATIN if here & unicode.bit("LATIN") else _OTHER
    return _MARK if here & unicode.bit("MARK") else _DIGIT if here & unicode.bit("DECIMAL") else _NONE


def _local(text: str, low: int, sign: int) -> int | None:
    """Where the local part before an @ begins, at `low` or later; None if there is none or it is too long."""
    at, letters = sign, _NONE
    while at > low:
        c = text[at - 1]
        if c == "." and (at == sign or text[at] == "."):
            break
        script = _script(c)
        if c in "._%+'-":
            letters = _NONE
        elif script == _NONE or (script < _DIGIT and letters not in (_NONE, script)):
            break
        elif script < _DIGIT:
            letters = script
        at -= 1
    at += at < sign and text[at] == "."
    if sign - at > 64:
        return None
    while at < sign and text[at] != "_" and _script(text[at]) in (_NONE, _MARK):
        at += 1
    return at if at < sign else None


def _domain(text: str, at: int, end: int) -> tuple[int, int] | None:
    """Where the top-level domain of a domain that begins at `at` begins and ends, before `end`; None if it has none."""
    found, first = None, True
    while at < end and _script(text[at]) not in (_NONE, _MARK):
        stop, letters = at, _NONE
        while stop < end and (script := _script(text[stop])) not in (_NONE, _DIGIT):
            if script < _DIGIT and letters not in (_NONE, script):
                break
            stop, letters = stop + 1, script if script < _DIGIT else letters
        if not first and 2 <= stop - at <= 24 and not (stop < end and _script(text[stop]) == _DIGIT):
            known = [len(d) for d in DOMAINS if text.startswith(d, at, stop)]
            found = at, at + max(known) if known else stop
        while stop < end and (text[stop] == "-" or _script(text[stop]) != _NONE):
            script = _script(text[stop])
            if 0 < script < _DIGIT and letters not in (_NONE, script):
                break
            letters = _NONE if text[stop] == "-" else script if script < _DIGIT else letters
            stop += 1
        if text[stop - 1] == "-" or stop >= end or text[stop] != ".":
            break
        at, first = stop + 1, False
    return found


def _good_ipv4(text: str, start: int, stop: int) -> bool:
    address = ipaddress.IPv4Address(text[start:stop])
    if any(address in network for network in _kept_networks(4)):
        return False
    if stop - start == 7 and not _near(text, start - 100, stop + 100, ("dns", "server")):
        return False
    return not _near(text, start - 24, start, ("version",))


def ipv6(text: str) -> Iterator[Span]:
    """Global addresses of at least three written groups."""
    at = 0
    while found := _IPV6.search(text, at):
        at = found.end()
        run = found[0]
        if run[-1] == ":" and run[-2] != ":":
            run = run[:-1]
        try:
            address = ipaddress.IPv6Address(run)
        except ValueError:
            continue
        if len([g for g in run.split(":") if g]) >= 3 and not any(address in n for n in _kept_networks(6)):
            yield found.start(), found.start() + len(run)


def _good_phone(text: str, start: int, stop: int) -> bool:
    if _near(text, start - 20, start, ("isbn", "doi", "#")):
        return False
    return not re.sub("[^0-9]", "", text[start:stop])[-7:].startswith("55501")


def luhn(digits: str) -> bool:
    """Luhn's check of a card number."""
    doubled = [int(d) * (1 + i % 2) for i, d in enumerate(reversed(digits))]
    return sum(d - 9 if d > 9 else d for d in doubled) % 10 == 0


def issuer(digits: str) -> bool:
    """Whether a number begins and is as long as those of a large issuer."""
    n, two, three, four = len(digits), int(digits[:2]), int(digits[:3]), int(digits[:4])
    if digits[0] == "4":
        return n in (13, 16, 19)
    if 51 <= two <= 55 or 2221 <= four <= 2720:
        return n == 16
    if two in (34, 37):
        return n == 15
    if two in (36, 38) or 300 <= three <= 305:
        return n == 14
    if 3528 <= four <= 3589:
        return n == 16
    return (four == 6011 or 644 <= three <= 649 or two in (62, 65)) and n >= 16


def _good_card(text: str, start: int, stop: int) -> bool:
    digits = re.sub("[^0-9]", "", text[start:stop])
    return luhn(digits) and (issuer(digits) or _near(text, start - 32, start, ("card", "visa", "credit", "amex")))


def keys(text: str) -> Iterator[Span]:
    """Keys of known services, JSON web tokens, private keys, passwords in URLs, quoted secrets that are named so."""
    for found in _TOKEN.finditer(text):
        if len(found[0]) <= 255 and _KEY.fullmatch(found[0]):
            yield found.span()
    for pattern in (_JWT, _PRIVATE):
        for found in pattern.finditer(text):
            yield found.span()
    for sign in (m.start() for m in re.finditer("@(?=.)", text)):
        low = max(0, sign - 256)
        if _script(text[sign + 1]) in (_NONE, _MARK):
            continue
        password = _PASSWORD.search(text[low:sign])
        if password and password[1].lower() != "redacted":
            yield low + password.start(1), sign
    for sign in (m.start() for m in re.finditer("[=:]", text)):
        assigned = _ASSIGNED.match(text, sign)
        if not assigned:
            continue
        value, name = assigned[2], sign
        if not re.search("[0-9]", value) or not re.search("[A-Za-z]", value) or len(set(value)) < 10:
            continue
        while name > 0 and sign - name < 4 and text[name - 1] in " \"'":
            name -= 1
        first = name
        while first > 0 and name - first < 40 and re.match(_T, text[first - 1]):
            first -= 1
        if not _HASH.match(value) and _near(text, first, name, SECRET_NAMES):
            yield assigned.span(2)


_FINDERS: tuple[Callable[[str], Iterator[Span]], ...] = (
    emails,
    lambda text: _valid(text, _IPV4, _good_ipv4),
    ipv6,
    lambda text: _valid(text, _PHONE, _good_phone),
    lambda text: _valid(text, _CARD, _good_card),
    keys,
)


def plain(text: str) -> list[Match]:
    """Everything found in one text, in order; what overlaps too."""
    found = [Match(0, kind, *span) for kind, find in enumerate(_FINDERS) for span in find(text)]
    return sorted(found, key=lambda m: (m.start, -m.stop, m.kind))


# ---- both --------------------------------------------------------------------------------------------------------


def find(column: pa.Array, kinds: tuple[str, ...] = KINDS) -> list[Match]:
    """Everything of some kinds in a column of texts, in order; of two that overlap, the one that begins first, or is
    longer. Compiled where there is a compiler."""
    wanted = {KINDS.index(kind) for kind in kinds}
    out: list[Match] = []
    row, free = -1, 0
    for match in _compiled(column) if _library() else _plain(column):
        if match.row != row:
            row, free = match.row, 0
        if match.kind in wanted and match.start >= free:
            out.append(match)
            free = match.stop
    return out


def _plain(column: pa.Array) -> Iterator[Match]:
    for i, text in enumerate(column.to_pylist()):
        for match in plain(text):
            yield match._replace(row=i)


def _compiled(column: pa.Array) -> Iterator[Match]:
    library = _library()
    assert library is not None
    given, four, six = texts(column), _masks(4), _masks(6)
    lists = [p for m in (four, six) for p in (pointer(m), ctypes.c_int64(len(m)))]
    library.find_patterns.restype = ctypes.c_int64
    room = 4 * len(given) + 64
    while True:
        out = np.empty((room, 4), np.int64)
        count = library.find_patterns(
            *given.pointers, pointer(unicode.flags()), *lists, pointer(out), ctypes.c_int64(room)
        )
        if count <= room:
            return (Match(*row) for row in out[:count].tolist())
        room = count


@functools.cache
def _kept_networks(version: int) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    both = SPECIAL_IPV4 + NAME_SERVERS_IPV4 if version == 4 else SPECIAL_IPV6 + NAME_SERVERS_IPV6
    return tuple(ipaddress.ip_network(n) for n in both)


@functools.cache
def _masks(version: int) -> np.ndarray:
    """IPv4: uint32 [n, 2], IPv6: uint8 [n, 32]; address, mask."""
    networks = _kept_networks(version)
    if version == 4:
        return np.array([[int(n.network_address), int(n.netmask)] for n in networks], np.uint32)
    rows = [list(n.network_address.packed + n.netmask.packed) for n in networks]
    return np.array(rows, np.uint8)


@functools.cache
def _library() -> ctypes.CDLL | None:
    here = Path(__file__).parent
    try:
        return load(here / "patterns.cpp", headers=[here / "unicode.hpp"])
    except Unavailable as reason:
        log.warning("personal data is found in plain Python, some fifty times slower: %s", reason)
        return None
