"""Personal data: compiled equals plain, a table of what is and is not replaced, and what is written down about it."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.core.technique import resolve
from tilth.data.document import Document, batches
from tilth.data.engine.steps import Signals, after, judge
from tilth.data.native import patterns
from tilth.data.native.patterns import KINDS, luhn, plain

GITHUB = "ghp_" + "a1B2" * 9
PIECES = [
    "john.doe@x.com",
    " ",
    "@",
    "a.b",
    "..",
    "+1 ",
    "ö",
    "ж",
    "漢",
    ".中国",
    ".한국",
    "한",
    "o\u0308",
    "(212) ",
    "555-1234",
    "212-555-0134",
    "4111111111111111",
    "é",
]
PIECES += ["4111 1111 1111 1111", "1.2.3.4", "8.8.8.8", "93.184.216.34", ".", "256", "2001:4860:", "::", "1:2:3:4:5:6"]
PIECES += [
    "2606:2800:220:1:248:1893:25c8:1946",
    ":",
    "://",
    "user:pw",
    "key",
    "=",
    "'",
    "abcdEFGH1234ijkl",
    '"',
    "ghp_",
]
PIECES += ["A" * 10, "AKIA", "ABCD1234EFGH5678", "İ", "-", "-----BEGIN RSA PRIVATE KEY-----", "-----END ", "eyJ", "1"]
PIECES += ["PRIVATE KEY-----", "abcdefghij1", "server", "version ", "isbn ", "#", "card ", "+44 20 7946 0958", "%", "/"]
TEXT = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3)), max_size=20).map("".join)


def batch(*texts: str) -> pa.RecordBatch:
    (found,) = batches(Document(f"{i:032x}", t, "s", f"p{i}") for i, t in enumerate(texts))
    return found


def redact(text: str, **fields: object) -> str:
    step = resolve("curate", {"use": "redact", "put": "mask", **fields}).build()
    verdicts = step.judge(batch(text))
    return text if verdicts.text is None else verdicts.text[0].as_py()


@settings(max_examples=400)
@given(st.lists(TEXT, min_size=1, max_size=3))
def test_compiled_equals_plain(texts: list[str]) -> None:
    if patterns._library() is None:
        pytest.skip("no compiler")
    texts = [t.encode("utf-8", "replace").decode() for t in texts]
    column = pa.array(texts, pa.large_string())
    assert set(patterns._compiled(column)) == {m._replace(row=i) for i, t in enumerate(texts) for m in plain(t)}


E, I4, I6, P, C, K = (
    f"|||{w}|||" for w in ("EMAIL_ADDRESS", "IP_ADDRESS", "IP_ADDRESS", "PHONE_NUMBER", "CARD_NUMBER", "KEY")
)
TABLE = [
    # What DataTrove 0.10 corrupts (spec 8).
    ("1.2.3.4567", "1.2.3.4567"),
    ("256.8.8.8", "256.8.8.8"),
    ("1.2.3.4.5", "1.2.3.4.5"),
    ("https://user:pass@93.184.216.34/x", f"https://user:{K}@{I4}/x"),
    ("https://john@host.com/x", "https://john@host.com/x"),
    ("ssh://git@github.com/a and git@github.com:a/b", "ssh://git@github.com/a and git@github.com:a/b"),
    # Addresses.
    ("Mail <john.doe+x@mail.example-host.co.uk>, or 'jane@x.org'.", f"Mail <{E}>, or '{E}'."),
    ("mailto:a_b@x.io. Write!", f"mailto:{E}. Write!"),
    ("a@b, @name, a@b.c, icon@2x.png, x@example.com, x@sub.example.org, you@host.test", None),
    ("é.tude@x.com", E),
    ("Schreibt an jörg@grosserhafen.de bitte.", f"Schreibt an {E} bitte."),
    ("jo\u0308rg.müller+brief@bücher-straße.example-haus.de, ok", f"{E}, ok"),
    ("почта: иван.петров@пример.рф; ivan.петров@x.ru", f"почта: {E}; {E}"),
    ("«ελένη@παράδειγμα.ελ» и", f"«{E}» и"),
    ("दूत@डाटामेल.भारत लिखें", f"{E} लिखें"),
    ("اكتب إلى علي@بريد.شبكة الآن", f"اكتب إلى {E} الآن"),
    ("请写信给user.name@grosserhafen.de，谢谢", f"请写信给{E}，谢谢"),
    ("请写信给li@haven.de请回复", f"请写信给{E}请回复"),
    ("（用户@例子.中国请回复）", f"（{E}请回复）"),
    ("문의는 홍길동@예시.한국으로, hong@naver.com으로", f"문의는 {E}으로, {E}으로"),
    ("メール：山田@例え.コム。", f"メール：{E}。"),
    ("https://jörg@host.com/x jörg@localhost ö@ö.ö jörg@x.example.com", None),
    ("jörg@bücher.example-haus.de2 “jörg@haus.de”", f"jörg@bücher.example-haus.de2 “{E}”"),
    ("https://user:geheim7@пример.рф/x", f"https://user:{K}@пример.рф/x"),
    ("Seen at 93.184.216.34.", f"Seen at {I4}."),
    ("http://93.184.216.34:80/", f"http://{I4}:80/"),
    ("10.1.2.3 192.168.0.1 127.0.0.1 172.31.255.255 169.254.1.1 224.0.0.1 8.8.8.8 1.1.1.1 203.0.113.9", None),
    ("172.32.0.1 100.128.0.1 9.9.9.8 on the server", f"{I4} {I4} {I4} on the server"),
    ("section 4.2.1.5; version 14.2.10.55; v1.2.30.4; 01.22.33.44; 1.22.333.4444", None),
    ("2a00:1450:4001:81b::200e, [2606:2800:220:1:248:1893:25c8:1946]:443", f"{I6}, [{I6}]:443"),
    ("2001:4860:4860::8888 2001:db8::1:2:3 fe80::1:2:3 std::abcd::beef 2024:10:12 3fff::1:2", None),
    # Numbers.
    ("Call +44 20 7946 0958 or (212) 736-5000 or 1-800-234-5678.", f"Call {P} or {P} or {P}."),
    ("212.736.5000 212 736-5000", f"{P} {P}"),
    ("ISBN 212-736-5000, doi 212-736-5000, #212-736-5000, (555) 555-0142, 2127365000, 212-736-50001", None),
    ("Visa 4111111111111111, 4111 1111 1111 1111, 3782-822463-10005", f"Visa {C}, {C}, {C}"),
    ("4111111111111112 4111 1111 11111111 41111111111111110 x4111111111111111", None),
    ("1234 5678 9012 3452 and then", None),  # Luhn holds, no issuer
    ("my card: 1234 5678 9012 3452", f"my card: {C}"),
    ("1111 4111 1111 1111 1111 2222", None),  # a table of numbers
    # Keys.
    (f"token {GITHUB}, AKIAIOSFODNN7EXAMPLE", f"token {K}, {K}"),
    (GITHUB[:-1] + " AKIAIOSFODNN7EXAMPLES sk-learn-contrib hf_transformers_are_models_of_language_yes", None),
    ('API_KEY = "q8Zr7Lw2Xp9Vt4Bn6Km1"', f'API_KEY = "{K}"'),
    ("{'password': 'q8Zr7Lw2Xp9Vt4Bn6Km1'}", f"{{'password': '{K}'}}"),
    ('title = "q8Zr7Lw2Xp9Vt4Bn6Km1"; key = "aaaaaaaaaaaaaaaaaaa1"; key = "see the documentation"', None),
    ('token_hash = "d41d8cd98f00b204e9800998ecf8427e"', None),
    (f"eyJ{'aB3' * 5}.eyJ{'cD4' * 5}.{'eF5' * 6}", K),
    ("-----BEGIN RSA PRIVATE KEY-----\nMIIB+a/b=\n-----END RSA PRIVATE KEY-----\n", f"{K}\n"),
    ("-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----", None),
]


@pytest.mark.parametrize(("text", "want"), TABLE)
@pytest.mark.parametrize("native", [True, False])
def test_table(text: str, want: str | None, native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not native:
        monkeypatch.setattr(patterns, "_library", lambda: None)
    assert redact(text) == (text if want is None else want)


def test_what_is_put_depends_on_the_document_and_the_place_alone() -> None:
    texts = [f"{i}: a{i}@x.com b@y.com 93.184.216.{i} +442079460958 2a00:1450:4001:81b::200e" for i in range(30)]
    step = resolve("curate", "redact").build()
    whole = step.judge(batch(*texts))
    alone = step.judge(batch(*texts).slice(17, 1))
    assert alone.text is not None and whole.text is not None
    assert alone.text[0] == whole.text[17]
    assert len(set(whole.text.to_pylist())) == 30
    assert len({e.put for e in whole.edits if e.rule == "email"}) == 12
    other = resolve("curate", {"use": "redact", "seed": 1}).build().judge(batch(*texts))
    assert other.text != whole.text


@pytest.mark.parametrize("put", ["value", "mask"])
def test_twice_changes_nothing(put: str) -> None:
    step = resolve("curate", {"use": "redact", "put": put}).build()
    signals = Signals(batch(" | ".join(text for text, _ in TABLE)), {})
    signals = after(judge(step, signals), signals)
    assert judge(step, signals).text is None


def test_what_is_written_down() -> None:
    step = resolve("curate", {"use": "redact", "kinds": ["email", "ipv4"]}).build()
    signals = Signals(batch("é a@x.com, 93.184.216.34, b@y.com, 212-736-5000", "nothing"), {})
    verdicts = judge(step, signals)
    assert [(e.row, e.start, e.stop, e.rule, e.removed) for e in verdicts.edits] == [
        (0, 2, 9, "email", ""),
        (0, 11, 24, "ipv4", ""),
        (0, 26, 33, "email", ""),
    ]
    assert "x.com" not in repr(verdicts.edits)
    left = after(verdicts, signals).batch
    assert json.loads(left.column("metadata")[0].as_py()) == {"redacted": {"email": 2, "ipv4": 1}}
    assert left.column("metadata")[1].as_py() == "{}"
    text = left.column("text")[0].as_py()
    assert text.endswith(", 212-736-5000")


def test_too_much_is_dropped() -> None:
    step = resolve("curate", {"use": "redact", "max_matches": 2}).build()
    verdicts = step.judge(batch("a@x.com b@x.com", "a@x.com b@x.com c@x.com", ""))
    assert verdicts.keep.tolist() == [True, False, True]
    assert verdicts.reason == ["", "too much personal data", ""]
    assert verdicts.value is not None and verdicts.threshold is not None
    assert verdicts.value[1] == 3 and verdicts.threshold[1] == 2 and np.isnan(verdicts.value[0])
    assert {e.row for e in verdicts.edits} == {0}


def test_counts() -> None:
    config = resolve("signal", "pii")
    got = config.build().compute(batch("a@x.com 93.184.216.34 b@y.com", ""))
    assert set(got) == set(config.columns()) == {*(f"pii_{k}" for k in KINDS), "pii_total"}
    assert got["pii_email"].to_pylist() == [2, 0]
    assert got["pii_total"].to_pylist() == [3, 0]


def test_luhn() -> None:
    assert luhn("4111111111111111") and not luhn("4111111111111112")
