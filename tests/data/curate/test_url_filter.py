"""Addresses on both sides of each rule; DataTrove's verdicts; the pattern of many words against brute force."""

import json
import re

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilth.core.errors import RecipeError
from tilth.core.technique import resolve
from tilth.data.curate.url_filter import above, host_of, trie
from tilth.data.document import Document, batches

LISTS = {
    "domains": ["bad.com", "evil.co.uk", "sub.host.org", ".xxx", "WWW.Straße.de"],
    "hosts": ["one.two.org"],
    "urls": ["https://ok.org/bad/page"],
    "words": ["porn"],
    "soft_words": ["sex", "adult", "nude"],
    "subwords": ["porn-hub"],
    "curated": ["wikipedia.org"],
}


def verdicts(addresses, **knobs):
    step = resolve("curate", {"use": "url_filter", **knobs}).build()
    (batch,) = batches(Document(str(i), "text", "s", "p", url=u) for i, u in enumerate(addresses))
    return step.judge(batch, None)


# https://…: (DataTrove 0.10's verdict with the same lists, ours); from `URLFilter` in a script of a dozen lines with
# `block_listed_domains`, `extra_urls` and the three kinds of words set as above
PLANTED = {
    "https://bad.com/x": ("domain", "domain"),
    "https://www.bad.com": ("domain", "domain"),
    "http://a.b.bad.com:80/": ("domain", "domain"),
    "https://notbad.com/": ("", ""),
    "https://x.evil.co.uk/": ("domain", "domain"),
    "https://sub.host.org/a": ("subdomain", "domain"),
    "https://host.org/a": ("", ""),
    "https://ok.org/bad/page": ("url", "address"),
    "https://ok.org/bad/page/2": ("", ""),
    "https://ok.org/porn/1": ("hard_blacklisted", "hard word"),
    "https://ok.org/PORN/1": ("", "hard word"),  # its words are not lower-cased
    "https://ok.org/pornography": ("", ""),
    "https://pornhub.com/1": ("blacklisted_subword", "part of a word"),
    "https://ok.org/p-o-r-n-h-u-b": ("blacklisted_subword", "part of a word"),
    "https://ok.org/sex/adult": ("soft_blacklisted", "soft words"),
    "https://ok.org/sex/sex": ("", ""),  # two different ones are needed
    "https://ok.org/sexadult/": ("", ""),
    "https://ok.org/nude-sex_adult": ("soft_blacklisted", "soft words"),
    "https://ok.org/garden": ("", ""),
    "https://ok.org/a?q=porn": ("hard_blacklisted", "hard word"),
    "https://ok.org/%70orn/": ("", "hard word"),  # nor decoded
}
NAMES = {"domain": "domain", "subdomain": "domain", "url": "address", "hard_blacklisted": "hard word", "": ""} | {
    "soft_blacklisted": "soft words",
    "blacklisted_subword": "part of a word",
}


def test_planted_addresses_and_the_verdicts_of_datatrove():
    got = verdicts(PLANTED, **LISTS)
    assert dict(zip(PLANTED, got.reason, strict=True)) == {url: ours for url, (_, ours) in PLANTED.items()}
    assert got.keep.tolist() == [not r for r in got.reason]
    differ = [url for url, (theirs, ours) in PLANTED.items() if NAMES[theirs] != ours]
    assert differ == ["https://ok.org/PORN/1", "https://ok.org/%70orn/"]


@pytest.mark.parametrize(
    "url, reason",
    [
        ("https://anything.xxx/", "domain"),
        ("https://strasse.de/x", "domain"),
        ("https://user:pw@BAD.COM.:8080?x", "domain"),
        ("//bad.com/x", "domain"),
        ("bad.com/x", "domain"),
        ("https://bad.com.evil.org/", ""),
        ("https://ok.org/?u=bad.com", ""),
        ("https://one.two.org/", "host"),
        ("https://three.one.two.org/", ""),
        ("http://www.OK.org/bad/page/#top", "address"),
        ("https://ok.org/bad/Page", ""),
        ("https://de.wikipedia.org/wiki/X", "curated elsewhere"),
        ("https://[::1]/porn", "hard word"),
        ("https://[bad/", ""),
        ("https://127.0.0.1/", ""),
        ("", ""),
        ("\0\ufffd%ff%zz://", ""),
        ("https://" + "a." * 5000 + "bad.com", "domain"),
        ("https://" + "ä" * 5000 + ".com", ""),
    ],
)
def test_addresses_of_all_sorts(url, reason):
    assert verdicts([url], **LISTS).reason == [reason]


def test_the_verdict_names_the_entry():
    got = verdicts(["https://evil.co.uk", "https://a.org/nude/sex/adult", "https://a.org/"], **LISTS)
    assert got.value.tolist()[:2] == [2.0, 3.0] and got.threshold.tolist()[1] == 2.0
    assert got.value[2] != got.value[2]


def test_lists_come_from_files(tmp_path):
    (tmp_path / "d.txt").write_text("# adult sites\nbad.com\n\nworse.org  # since 2020\n")
    got = verdicts(["https://worse.org/", "https://good.org/"], domains=str(tmp_path / "d.txt"))
    assert got.reason == ["domain", ""] and got.value[0] == 4
    step = resolve("curate", {"use": "url_filter", "domains": str(tmp_path / "d.txt")})
    before = step.fingerprint()
    (tmp_path / "d.txt").write_text("other.org\n")
    assert step.fingerprint() != before
    with pytest.raises(RecipeError, match="cannot be read"):
        verdicts(["https://a.org"], domains=str(tmp_path / "none.txt"))
    with pytest.raises(RecipeError, match="an entry of 300 characters"):
        verdicts(["https://a.org"], subwords=["x" * 300])


def test_empty_lists_keep_everything():
    nothing = {key: [] for key in LISTS}
    assert verdicts(PLANTED, **nothing).keep.all()
    assert verdicts(["https://xvideos.com/", "https://a.org/poker-casino"]).keep.tolist() == [False, False]


def test_hosts():
    assert host_of("HTTP://WWW.A.org:80/x") == "a.org" and host_of("https://münchen.de/") == "xn--mnchen-3ya.de"
    assert list(above("a.b.co.uk")) == ["a.b.co.uk", "b.co.uk", "co.uk", ".uk"]
    assert list(above("10.0.0.1")) == ["10.0.0.1"] and list(above("localhost")) == ["localhost", ".localhost"]


@given(
    words=st.lists(st.text("ab.", min_size=1, max_size=4), max_size=8),
    text=st.text("ab.", max_size=12),
)
def test_the_pattern_of_many_words_finds_what_brute_force_finds(words, text):
    found = re.search(trie(words), text)
    at = [(i, w) for i in range(len(text)) for w in words if text.startswith(w, i)]
    if not at:
        assert found is None
    else:
        first = min(i for i, _ in at)
        assert (found.start(), found[0]) == (first, max((w for i, w in at if i == first), key=len))


def test_documents_of_one_batch_are_judged_alone():
    urls = list(PLANTED)
    one_by_one = [verdicts([u], **LISTS).reason[0] for u in urls]
    assert verdicts(urls, **LISTS).reason == one_by_one
    assert isinstance(verdicts(urls, **LISTS).keep.tolist(), list) and json.dumps(one_by_one)
    assert pa.array(one_by_one).null_count == 0
