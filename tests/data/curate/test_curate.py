"""Curation steps against brute force, and every knob against its neighbour."""

import random
import re
import unicodedata
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilth.core.config import validate
from tilth.core.errors import RecipeError
from tilth.data.curate import exact, near, rules
from tilth.data.document import Document, batches


def judge(config, texts, sources=None, cut=10_000):
    """Reasons for `texts` (and their sources), given to the step in batches of `cut`."""
    step, out = config.build(), []
    sources = sources or ["s"] * len(texts)
    rows = [Document(str(i), t, s, "p") for i, (t, s) in enumerate(zip(texts, sources, strict=True))]
    for start in range(0, len(rows), cut):
        for batch in batches(rows[start : start + cut]):
            verdicts = step.judge(batch)
            assert len(verdicts.reason) == len(verdicts.keep) == batch.num_rows
            assert [not r for r in verdicts.reason] == verdicts.keep.tolist()
            out += verdicts.reason
    return out


# ---- exact -------------------------------------------------------------------------------------------------------

FORMS = {
    "bytes": lambda t: t,
    "spaces": lambda t: " ".join(unicodedata.normalize("NFC", t).split()),
    "words": lambda t: (
        " ".join(re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", t).casefold()))
        or (t if unicodedata.normalize("NFKC", t).casefold() else "")
    ),
}
SMALL = st.lists(st.tuples(st.text("aA .\u0301\n", max_size=4), st.sampled_from("xy")), max_size=12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scope", ["global", "source"])
@given(rows=SMALL)
def test_exact_keeps_the_first_of_each_form(form, scope, rows):
    seen, want = set(), []
    for text, source in rows:
        key = (FORMS[form](text), source if scope == "source" else "")
        want.append("exact duplicate" if key in seen else "")
        seen.add(key)
    got = judge(exact.Config(form=form, scope=scope), [t for t, _ in rows], [s for _, s in rows], cut=5)
    assert got == want


# ---- near --------------------------------------------------------------------------------------------------------

VOCABULARY = [f"w{i}" for i in range(400)]


def shingle_set(text, n=5):
    words = text.lower().split()
    return {tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1))}


def true_jaccard(a, b, n=5):
    a, b = shingle_set(a, n), shingle_set(b, n)
    return len(a & b) / len(a | b)


def family(seed, size=200, copies=40):
    """A text and copies with a growing share of words replaced: similarities from 1 down to 0."""
    rng = random.Random(seed)
    words = rng.choices(VOCABULARY, k=size)
    out = [" ".join(words)]
    for i in range(copies):
        copy = list(words)
        for at in rng.sample(range(size), i):
            copy[at] = rng.choice(VOCABULARY)
        out.append(" ".join(copy))
    return out


def brute_force(texts, threshold, n=5):
    kept, reasons = [], []
    for text in texts:
        twin = any(true_jaccard(text, k, n) >= threshold for k in kept)
        reasons.append("near duplicate" if twin else "")
        kept += [] if twin else [text]
    return reasons


@pytest.mark.parametrize("threshold, n", [(0.5, 5), (0.7, 5), (0.7, 3), (0.9, 2)])
def test_near_agrees_with_brute_force(threshold, n):
    texts = [t for seed in range(4) for t in family(seed, copies=20)]
    random.Random(1).shuffle(texts)
    want = brute_force(texts, threshold, n)
    got = judge(near.Config(threshold=threshold, ngram=n), texts, cut=17)
    assert 5 < sum(map(bool, want)) < len(texts) - 5
    assert got == want  # banding may miss one in a hundred *at* the threshold; with this seed it misses none


def test_banding_finds_what_its_curve_promises():
    """Pairs of known similarity against 1 - (1 - s^rows)^bands, within four standard errors; none below is dropped."""
    config = near.Config(threshold=0.8)
    bands, rows = config.banding()
    step = config.build()
    rng = np.random.default_rng(0)
    for shared, trials in [(400, 300), (300, 300), (200, 300)]:  # of 500: s = shared / (1000 - shared)
        s = shared / (1000 - shared)
        hit = 0
        for _ in range(trials):
            pool = rng.choice(2**32, size=1000 - shared, replace=False).astype(np.uint32)
            pair = [np.sort(pool[:500]), np.sort(pool[500 - shared :][:500])]
            keys = step._band_keys(step.signatures(pair))
            hit += bool((keys[0] == keys[1]).any())
        p = 1 - (1 - s**rows) ** bands
        assert abs(hit / trials - p) < 4 * np.sqrt(p * (1 - p) / trials) + 0.01
    assert 1 - (1 - 0.8**rows) ** bands >= 0.99 > 1 - (1 - 0.8 ** (rows + 1)) ** (config.hashes // (rows + 1))


def test_signatures_estimate_similarity_and_ignore_grouping():
    step = near.Config().build()
    a, b = (step.shingles(t) for t in family(3)[:9:8])
    assert near.jaccard(a, b) == pytest.approx(true_jaccard(*family(3)[:9:8]), abs=1e-6)
    signatures = step.signatures([a, np.empty(0, np.uint32), b])
    assert abs((signatures[0] == signatures[2]).mean() - near.jaccard(a, b)) < 4 * np.sqrt(0.25 / 128)
    assert (signatures[0] == step.signatures([a])[0]).all() and (signatures[2] == step.signatures([b])[0]).all()
    large = [np.sort(np.random.default_rng(i).choice(2**32, n).astype(np.uint32)) for i, n in enumerate([5, 70_000, 3])]
    want = [
        (s.astype(object)[:, None] * step._scale.astype(object)[:3] + step._shift.astype(object)[:3]) % 2**64
        for s in large[::2]
    ]
    got = step.signatures(large)
    assert [got[i, :3].tolist() for i in (0, 2)] == [w.min(0).tolist() for w in want]


def test_dropped_documents_do_not_drop_others():
    """a~b and b~c but not a~c: b goes, c stays, for no document kept resembles it."""
    words = [f"x{i}" for i in range(130)]
    a, b, c = " ".join(words[:100]), " ".join(words[13:113]), " ".join(words[26:126])
    assert true_jaccard(a, b) > 0.7 < true_jaccard(b, c) and true_jaccard(a, c) < 0.7
    assert judge(near.Config(), [a, b, c]) == ["", "near duplicate", ""]


def test_every_knob_of_near_matters():
    a, b = family(0)[0], family(0)[8]
    s = true_jaccard(a, b)
    assert 0.5 < s < 0.9
    assert judge(near.Config(threshold=s - 0.02), [a, b])[1] and not judge(near.Config(threshold=s + 0.02), [a, b])[1]
    assert judge(near.Config(threshold=s + 0.02, ngram=1), [a, b])[1]
    assert judge(near.Config(), [a, a], ["x", "y"])[1] and not judge(near.Config(scope="source"), [a, a], ["x", "y"])[1]
    one, two = near.Config(seed=1).build(), near.Config(seed=2).build()
    assert (one.signatures([one.shingles(a)]) != two.signatures([one.shingles(a)])).all()
    assert near.Config(hashes=256).banding() != near.Config().banding()
    with pytest.raises(RecipeError, match="43 hashes miss too many documents at this threshold; 44 would do"):
        validate(near.Config, {"threshold": 0.1, "hashes": 43})


def test_words_of_other_scripts_and_short_texts():
    step = near.Config(ngram=2).build()
    assert step.shingles("... !?").size == 0 and step.shingles("one").size == 1
    assert step.shingles("Das ist schön“, sagte er").tolist() == step.shingles("das IST schön sagte, er!").tolist()
    assert step.shingles("今日は晴れです").size == 6  # each character is a word
    assert judge(near.Config(), ["!", "!", "", "hello", "Hello!"]) == ["", "", "", "", "near duplicate"]


def test_crowds_of_templates_stay_affordable():
    """Hundreds of documents that share a band are compared with the first of them only, and none is lost."""
    rng = random.Random(0)
    base = [f"b{i}" for i in range(50)]
    texts = [" ".join([*base, *(f"{i}v{rng.random()}" for _ in range(30))]) for i in range(300)]
    config = near.Config()
    step = config.build()
    assert not any(judge(config, texts))
    for batch in batches(Document(str(i), t, "s", "p") for i, t in enumerate(texts)):
        step.judge(batch)
    assert max(map(len, step._memories[""].buckets.values())) <= near._CROWD


@given(
    a=st.sets(st.integers(0, 30), min_size=1),
    b=st.sets(st.integers(0, 30), min_size=1),
    enough=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_jaccard_of_sorted_sets(a, b, enough):
    got = near.jaccard(*(np.array(sorted(s), dtype=np.uint32) for s in (a, b)), enough)
    want = len(a & b) / len(a | b)
    assert got == want or (got == 0.0 and want < enough)


# ---- rules -------------------------------------------------------------------------------------------------------

PROSE = "The quick brown fox jumps over the lazy dog, and then it rests for a while.\n"


@pytest.mark.parametrize(
    "knobs, keeps, drops, reason",
    [
        ({"min_chars": 10}, "ten chars!", "nine char", "too short"),
        ({"min_chars": 3}, "  abc  ", "  ab   ", "too short"),
        ({"max_chars": 10}, "ten chars!", "ten chars!!", "too long"),
        ({"min_letters": 0.5}, "ab 12", "ab 123", "too few letters"),
        ({"min_letters": 0.5}, "äß １２", "äß １２３", "too few letters"),
        ({"min_letters": 0.1}, "a", "  ", "too few letters"),
        ({"max_repeated": 0.5}, "abc\nabc", "abc\nabc\nabc", "repeated lines"),
        ({"max_repeated": 0.25}, "one\ntwo\nten\n\n one\n", "one\ntwo\n\nten\none\ntwo", "repeated lines"),
        ({"max_line_chars": 5}, "12345\n12345", "1\n123456", "a line too long"),
        ({"max_mean_line_chars": 4.0}, "12345\n\n123", "12345\n\n1234", "lines too long"),
    ],
)
def test_rules_on_either_side_of_their_limits(knobs, keeps, drops, reason):
    off = dict.fromkeys(rules.Config.model_fields)
    assert judge(rules.Config(**(off | knobs)), [keeps, drops]) == ["", reason]
    assert judge(rules.Config(**off), [keeps, drops]) == ["", ""]


def test_default_rules_keep_prose_and_code_and_drop_junk():
    prose = "".join(PROSE.replace("fox", f"fox{i}") for i in range(4))
    code = "".join(f"def f{i}(x, y):\n    if x > {i}:\n        return y\n    return None\n\n" for i in range(9))
    junk = ["", "x", PROSE * 5, "0123456789 " * 40, "a" * 30_000, "<br>" * 5_500]
    got = judge(rules.Config(), [prose, code, *junk])
    assert got[:2] == ["", ""] and all(got[2:])


@given(text=st.text())
def test_no_step_fails_on_any_text(text):
    for config in (exact.Config(), exact.Config(form="words"), near.Config(hashes=16), rules.Config()):
        assert not judge(config, [text])[0] or isinstance(config, rules.Config)


def test_steps_say_the_same_however_the_documents_are_batched():
    texts = [t for pair in pairwise(family(5)) for t in pair]
    for config in (exact.Config(), near.Config(), rules.Config()):
        assert judge(config, texts, cut=1) == judge(config, texts, cut=7) == judge(config, texts)
