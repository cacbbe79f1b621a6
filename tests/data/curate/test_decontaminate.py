"""Decontamination against a comparison of all n-grams of all texts, and the rules' own examples."""

from __future__ import annotations

import io
import json
import random
import string
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.core.errors import DataError, RecipeError
from tilth.core.technique import resolve
from tilth.data.curate.decontaminate import Config, Decontaminate, EvalSet
from tilth.data.native import hashing, minhash, ngrams
from tilth.data.native.buffers import texts

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
PROSE = st.text(alphabet="ab-. ", max_size=40)


def batch(rows: list[str]) -> pa.RecordBatch:
    return pa.record_batch([pa.array(rows, pa.large_string())], ["text"])


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def step(tmp_path: Path, items: list[str], **knobs: Any) -> Decontaminate:
    return Config(
        sets={"exam": EvalSet(path=write(tmp_path / "exam.jsonl", [{"text": t} for t in items]))}, **knobs
    ).build()


def salad(rng: random.Random, n: int) -> list[str]:
    return ["".join(rng.choices(string.ascii_lowercase, k=10)) for _ in range(n)]


def plain_words(text: str) -> list[str]:
    words = ("".join(c for c in w if c not in string.punctuation).lower() for w in text.split())
    return [w for w in words if w]


@given(st.lists(PROSE, min_size=1, max_size=4), st.lists(PROSE, max_size=6), st.integers(2, 4))
@settings(max_examples=40)
def test_hits_equal_a_comparison_of_all_n_grams(
    tmp_path_factory: pytest.TempPathFactory, items: list[str], rows: list[str], n: int
) -> None:
    if not any(len(plain_words(item)) >= n for item in items):
        items = [*items, "x y z w"]
    built = step(tmp_path_factory.mktemp("sets"), items, rule="llama3", ngram=n)
    verdicts = built.judge(batch(rows))
    assert verdicts.keep.all() and verdicts.text is None and not verdicts.edits
    got = verdicts.metadata["contamination"]
    alone = [built.judge(batch([row])).metadata["contamination"][0] for row in rows]
    assert got == alone  # whatever else is in the batch
    for text, hits in zip(rows, got, strict=True):
        here = plain_words(text)
        expected: dict[int, set[int]] = {}
        for number, item in enumerate(items):
            theirs = plain_words(item)
            for i in range(len(theirs) - n + 1):
                if any(here[j : j + n] == theirs[i : i + n] for j in range(len(here) - n + 1)):
                    expected.setdefault(number, set()).update(range(i, i + n))
        found: dict[int, set[int]] = {}
        for hit in hits or []:
            found.setdefault(hit["item"], set()).update(range(*hit["words"]))
            assert hit["text"] == text[hit["start"] : hit["stop"]]
            assert plain_words(hit["text"]) == plain_words(items[hit["item"]])[slice(*hit["words"])]
        assert found == expected


@given(
    st.lists(
        st.text(alphabet=st.one_of(st.sampled_from("aB-. \nİΣȺ漢กิあ、’"), st.characters(codec="utf-8")), max_size=20)
    ),
    st.integers(2, 4),
)
def test_flags_equal_their_plain_twin(rows: list[str], n: int) -> None:
    column = texts(pa.array(rows, pa.large_string()))
    for bare in (False, True):
        every = [k for row in rows for k in ngrams.keys([w.word for w in ngrams.words(row, bare)], n).tolist()]
        wanted = np.array(sorted(set(every))[::3], np.uint64)
        assert (
            ngrams.flag(column, bare, n, wanted).tolist() == ngrams.flag(column, bare, n, wanted, plain=True).tolist()
        )


@given(
    st.text(alphabet=st.one_of(st.sampled_from("aB1,.-'`´ \n\x1cΣİ漢กิが。"), st.characters(codec="utf-8")), max_size=30)
)
def test_words_after_normalisation_are_those_of_the_whole_text(text: str) -> None:
    built = Decontaminate.__new__(Decontaminate)
    built._form = "normal"
    whole = minhash.words(ngrams.spaced(text))
    assert [w.word for w in built.words(text)] == whole.split() == [w.word for w in ngrams.words(whole, False)]


def test_thirteen_words_are_found_and_twelve_are_not(tmp_path: Path) -> None:
    rng = random.Random(0)
    item = salad(rng, 40)
    rows = [" ".join([*salad(rng, 300), *item[5 : 5 + n], *salad(rng, 300)]) for n in (12, 13)]
    verdicts = step(tmp_path, [" ".join(item)]).judge(batch([*rows, "", "word"]))
    assert verdicts.keep.tolist() == [True] * 4 and verdicts.text is not None
    new = verdicts.text.to_pylist()
    assert new[0] == rows[0] and new[1] != rows[1] and verdicts.metadata["contamination"][0] is None
    [hit] = verdicts.metadata["contamination"][1]
    assert (hit["set"], hit["item"], hit["words"], hit["size"]) == ("exam", 0, [5, 18], 40)
    assert hit["text"] == " ".join(item[5:18])
    [edit] = verdicts.edits
    assert (edit.start, edit.stop) == (hit["start"] - 200, hit["stop"] + 200) and edit.rule == "contaminated: exam"
    assert (
        new[1] == rows[1][: edit.start] + "\n\n" + rows[1][edit.stop :]
        and edit.removed == rows[1][edit.start : edit.stop]
    )
    dropped = step(tmp_path, [" ".join(item)], rule="datatrove").judge(batch(rows))  # 12 words are enough there
    assert dropped.keep.tolist() == [False, False] and dropped.reason[0] == "contaminated: exam"
    assert dropped.metadata["contamination"][0][0]["words"] == [5, 17]


def test_the_pitfalls_of_the_re_implementation(tmp_path: Path) -> None:
    rng = random.Random(1)
    item, before, after = salad(rng, 60), " ".join(salad(rng, 200)), " ".join(salad(rng, 200))
    run = [f"{before} {' '.join(item[:n])} {after}" for n in (22, 23)]
    assert step(tmp_path, [" ".join(item)]).judge(batch(run)).keep.tolist() == [True, True]
    assert step(tmp_path, [" ".join(item)], hits="ngrams").judge(batch(run)).keep.tolist() == [True, False]
    dashed = f"{before} {' '.join(item[:6])} - {' '.join(item[6:13])} {after}"  # a dash of its own hides nothing
    assert step(tmp_path, [" ".join(item)]).judge(batch([dashed])).edits
    cyrillic = "Это ОДНО предложение, в котором больше тринадцати слов, и все они написаны большими буквами; да"
    assert step(tmp_path, [cyrillic]).judge(batch([before + " " + cyrillic.upper() + " " + after])).edits


def test_cut_drops_what_is_left_in_small_pieces_or_hit_too_often(tmp_path: Path) -> None:
    rng = random.Random(2)
    item = " ".join(salad(rng, 13))
    long = " ".join(salad(rng, 60))
    built = step(tmp_path, [item], max_hits=2)
    verdicts = built.judge(
        batch([f"short {item} short", " ".join([long, item] * 2 + [long]), " ".join([long, item] * 3)])
    )
    assert verdicts.keep.tolist() == [False, True, False]
    assert verdicts.reason == ["contaminated: exam", "", "contaminated in many places: exam"]
    assert verdicts.value[2] == 3 and verdicts.threshold[2] == 2  # type: ignore[index]
    kept = verdicts.text.to_pylist()[1]  # type: ignore[union-attr]
    assert item not in kept and len(kept.split("\n\n")) == 3 and all(len(p) > 200 for p in kept.split("\n\n"))


def test_palm_wants_seventy_percent_of_an_items_n_grams(tmp_path: Path) -> None:
    rng = random.Random(3)
    item = salad(rng, 17)  # 10 8-grams
    rows = [" ".join(item[: 7 + k]) for k in (6, 7)]
    verdicts = step(tmp_path, [" ".join(item)], rule="palm").judge(batch(rows))
    assert verdicts.keep.tolist() == [True, False] and verdicts.value[1] == 0.7  # type: ignore[index]
    assert len(verdicts.metadata["contamination"][0]) == 1  # recorded all the same


def test_llama2_forgives_four_words_after_the_tenth(tmp_path: Path) -> None:
    rng = random.Random(4)
    item = salad(rng, 40)

    def but(*places: int) -> str:
        return " ".join("other" if i in places else w for i, w in enumerate(item))

    built = step(tmp_path, [" ".join(item)], rule="llama2")
    rows = [but(), but(12, 15, 20, 33), but(12, 15, 20, 33, 36), but(9), but(39, 38), " ".join(item[:10])]
    found = built.judge(batch(rows)).metadata["contamination"]
    assert [[h["words"] for h in f or []] for f in found] == [
        [[0, 40]],
        [[0, 40]],
        [[0, 40]],  # to 36, where the fifth differs; and from 21, with two that differ, to the end
        [[10, 40]],
        [[0, 38]],
        [],
    ]
    rows = [but(12, 15, 20, 24, 33), but()]  # no other ten words in a row
    found = built.judge(batch(rows)).metadata["contamination"]
    assert [h["words"] for h in found[0]] == [[0, 33]]
    assert built.judge(batch([but(*range(32, 40)), but(*range(31, 40))])).keep.tolist() == [False, True]  # 80 %


def test_dolma_wants_whole_paragraphs(tmp_path: Path) -> None:
    rng = random.Random(5)
    long, short = " ".join(salad(rng, 13)), " ".join(salad(rng, 12))
    built = step(tmp_path, [f"{long}\n{short}"], rule="dolma")
    rows = [f"a\n  {long} \nb", f"a {long}\nb", f"{short}\nb", long.replace(" ", "\n", 1), long]
    assert built.judge(batch(rows)).keep.tolist() == [False, True, True, True, False]


def test_datatrove_counts_answers_and_what_straddles(tmp_path: Path) -> None:
    rng = random.Random(6)
    question, answer = salad(rng, 30), salad(rng, 14)
    path = write(tmp_path / "qa.jsonl", [{"q": " ".join(question), "a": " ".join(answer)}])
    sets = {"qa": EvalSet(path=path, fields=["q"], label="a")}
    rows = [question[:25], answer, [*question[-11:], answer[0]], [*question[-12:]], [*question[-5:], *answer[:7]]]
    column = batch([" ".join(r).upper() + "!" for r in rows])
    assert Config(sets=sets, rule="datatrove").build().judge(column).keep.tolist() == [True, False, False, True, False]
    built = Config(sets=sets, rule="datatrove", question=True).build()
    assert built.judge(column).keep.tolist() == [False] * 5


def test_frequent_n_grams_are_left_out_and_listed(tmp_path: Path) -> None:
    rng = random.Random(7)
    template, saying = " ".join(salad(rng, 13)), " ".join(salad(rng, 13))
    items = [f"{template} {' '.join(salad(rng, 13))}" for _ in range(3)] + [saying]
    general = write(tmp_path / "general.jsonl", [{"text": f"so: {saying}."}] * 2 + [{"other": 1}])
    built = step(tmp_path, items, rule="llama3", ngram=13, max_items=2, general=general, general_count=2)
    assert sorted(built.index.excluded, key=str) == sorted(
        [
            {"ngram": template, "in": "items of exam", "count": 3},
            {"ngram": saying, "in": "general documents", "count": 2},
        ],
        key=str,
    )
    assert built.judge(batch([template, saying])).metadata == {"contamination": [None, None]}
    kept = step(tmp_path, items, rule="llama3", ngram=13, max_items=3, general=general, general_count=3)
    assert not kept.index.excluded and len(kept.judge(batch([template])).metadata["contamination"][0]) == 3


def test_what_was_met_sums_over_documents_and_parts(tmp_path: Path) -> None:
    rng = random.Random(8)
    items = [salad(rng, 20) for _ in range(3)]
    built = step(tmp_path, [*map(" ".join, items), "too short"], rule="llama3")
    rows = [" ".join(items[0][:8]), " ".join(items[0][8:16]), " ".join(items[1][:10]) + " x " + " ".join(items[0][:8])]
    met = built.met()
    for hits in built.judge(batch(rows)).metadata["contamination"]:
        met.add(json.dumps({"contamination": hits, "lang": "en"}))
    out = met.to_dict()["exam"]
    assert (out["items"], out["too_short"], out["documents"], out["touched"]) == (4, 1, 3, 2)
    assert out["covered"] == {"0.2": 2, "0.5": 2, "0.8": 1}
    assert out["most"] == [{"item": 0, "share": 0.8}, {"item": 1, "share": 0.5}]


def test_hits_of_a_run_are_summed_whether_documents_stayed_or_went(tmp_path: Path) -> None:
    from tilth.data.engine.recipe import DataRecipe
    from tilth.data.engine.run import run

    rng = random.Random(9)
    items = [" ".join(salad(rng, 20)) for _ in range(3)]
    (tmp_path / "in").mkdir()
    rows = [items[0], " ".join(salad(rng, 400) + items[1].split()[:13]), " ".join(salad(rng, 50))]
    write(tmp_path / "in" / "a.jsonl", [{"text": t} for t in rows])
    sets = {"exam": {"path": write(tmp_path / "exam.jsonl", [{"text": t} for t in items])}}
    step = {"use": "decontaminate", "sets": sets}
    recipe = DataRecipe.model_validate(
        {"name": "x", "sources": {"a": {"use": "files", "path": str(tmp_path / "in")}}, "steps": [step]}
    )
    done = run(recipe, root=tmp_path / "runs", engine="inline", say=lambda _: None)
    met = resolve("curate", step).build().met()
    met.add_run(done.dir)
    out = met.to_dict()["exam"]
    assert (out["documents"], out["touched"], out["covered"]) == (2, 2, {"0.2": 2, "0.5": 2, "0.8": 1})


def test_says_what_is_wrong_with_a_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not there"):
        Config(sets={"x": EvalSet(path=str(tmp_path / "no.jsonl"))}).build()
    with pytest.raises(DataError, match=r"no item .* text in its field 'text'.*the first item has question"):
        Config(sets={"x": EvalSet(path=write(tmp_path / "a.jsonl", [{"question": "?"}]))}).build()
    (tmp_path / "b.jsonl").write_text('{"text": "a"}\n{"text"\n')
    with pytest.raises(DataError, match="line 2"):
        Config(sets={"x": EvalSet(path=str(tmp_path / "b.jsonl"))}).build()
    with pytest.raises(RecipeError):
        resolve("curate", {"use": "decontaminate", "sets": {}})


def test_items_without_an_n_gram_are_said_and_a_set_of_them_is_refused(tmp_path: Path) -> None:
    short, long = "What is the capital of France?", " ".join(salad(random.Random(3), 13))
    built = step(tmp_path, [short, long], rule="gpt3")
    assert built.notices == [
        "exam: 1 of 2 items are shorter than 13 words and not protected, such as item 0 (what is the capital of france)"
    ]
    assert built.met().to_dict()["exam"]["too_short"] == 1
    with pytest.raises(DataError, match=r"no item .* n-gram of 13 words \(the longest has 6\).*`ngram: 6`"):
        step(tmp_path, [short, "Two words"], rule="gpt3")
    assert not step(tmp_path, [short], rule="gpt3", ngram=6).notices
    with pytest.raises(DataError, match="holds no items"):
        step(tmp_path, [])
    with pytest.raises(DataError, match="left out as frequent"):
        step(tmp_path, [long] * 3, max_items=2)
    ten = " ".join(salad(random.Random(4), 10))  # llama2 begins with ten words and wants eleven
    with pytest.raises(DataError, match="n-gram of 11 words"):
        step(tmp_path, [ten], rule="llama2")
    two = Config(  # each stretch by itself: two choices of seven words have no n-gram of eight
        sets={"x": EvalSet(path=write(tmp_path / "c.jsonl", [{"c": [ten[:40], ten[:40]]}]), fields=["c"])}, ngram=4
    )
    assert two.build().met().to_dict()["x"]["too_short"] == 0
    with pytest.raises(DataError, match="the longest has 4"):
        two.model_copy(update={"ngram": 5}).build()


def contaminated(built: Decontaminate, text: str) -> list[int]:
    return sorted({hit["item"] for hit in built.judge(batch([text])).metadata["contamination"][0] or []})


def test_scripts_without_spaces_are_cut_by_character(tmp_path: Path) -> None:
    items = [
        "世界经济史是一部基于假象的连续剧。要获得财富",
        "吾輩は猫である。名前はまだ無い。どこで生れたか",
        "ประเทศไทยมีเมืองหลวงชื่อกรุงเทพมหานคร",
        "ကျွန်တော်တို့သည်မနက်ဖြန်ရန်ကုန်မြို့သို့သွားမည်",
    ]
    around = "码头上没有人着急，老人用蓝线补网，讲起童年的风暴。"
    for rule in ("gpt3", "palm", "llama2", "llama3", "datatrove"):
        built = step(tmp_path, items, rule=rule, action="report", coverage=0.0)
        assert not built.notices
        for number, item in enumerate(items):
            assert contaminated(built, f"{around}{item}{around}") == [number], (rule, item)
        assert contaminated(built, around * 20 + "and English words " * 9) == []
    whole = step(tmp_path, items, rule="dolma")
    assert contaminated(whole, f"{around}\n{items[0]}\n{around}") == [0] and not contaminated(whole, around + items[0])
    cut = step(tmp_path, items[:1], around=0, min_piece=0).judge(batch([f"{around}{items[0]}{around}"]))
    assert cut.text is not None and cut.text[0].as_py() == f"{around}\n\n{around}"


def test_words_of_mixed_scripts() -> None:
    def cut(text: str, bare: bool) -> list[str]:
        return [w.word for w in ngrams.words(text, bare)]

    assert cut("Ich sah 東京タワー、2回。Don’t “ask” – กิน", True) == (
        ["ich", "sah", *"東京タワー", "2", "回", "dont", "ask", "กิ", "น"]
    )
    assert cut("a、b c。漢", False) == ["a、b", "c。", "漢"]
    for word in ngrams.words("x漢字 กินyz", False):
        assert "x漢字 กินyz"[word.start : word.stop] == word.word


def test_lists_numbers_and_nulls_are_read(tmp_path: Path) -> None:
    choices = [" ".join(salad(random.Random(i), 14)) for i in range(3)]
    rows = [
        {"q": "Which?", "choices": [choices[0], None, 7], "answer": 0},
        {"q": "Which?", "choices": {"text": [choices[1]], "label": ["A"]}, "answer": None},
        {"q": choices[2], "choices": None, "answer": 3.5},
    ]
    path = write(tmp_path / "exam.jsonl", rows)
    built = Config(sets={"exam": EvalSet(path=path, fields=["q", "choices", "answer"])}).build()
    assert [contaminated(built, f"so {c} it is") for c in choices] == [[0], [1], [2]]
    assert not built.notices
    with pytest.raises(DataError, match=r"no item .* field 'missing'"):
        Config(sets={"exam": EvalSet(path=path, fields=["q", "missing"])}).build()


def test_any_source_is_an_evaluation_set(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    items = [" ".join(salad(random.Random(i), 15)) for i in range(2)]
    rows = [{"q": items[0], "choices": ["x", items[1]]}]
    folder = tmp_path / "sets"
    folder.mkdir()
    write(folder / "a.jsonl", rows)
    pq.write_table(pa.Table.from_pylist(rows), folder / "b.parquet")
    lines = {"use": "files", "path": str(folder / "a.jsonl"), "text_field": "q", "metadata_fields": ["choices"]}
    table = {**lines, "path": str(folder / "b.parquet")}
    asked: list[dict[str, Any]] = [
        {"path": str(folder / "a.jsonl"), "fields": ["q", "choices"]},
        {"path": str(folder / "b.parquet"), "fields": ["q", "choices"]},
        {"source": lines, "fields": ["text", "choices"]},
        {"source": table, "fields": ["text", "choices"]},
    ]
    for one in asked:
        config = resolve("curate", {"use": "decontaminate", "sets": {"exam": one}})
        built = config.build()
        assert [contaminated(built, item) for item in items] == [[0], [0]], one
        before = config.fingerprint()
        again = resolve("curate", {"use": "decontaminate", **json.loads(config.model_dump_json())})
        assert again.fingerprint() == before  # a resolved recipe is read again
    raw = {"q": pa.array([items[0].encode(), None], pa.binary())}
    pq.write_table(pa.table(raw), tmp_path / "raw.parquet")
    binary = Config(sets={"exam": EvalSet(path=str(tmp_path / "raw.parquet"), fields=["q"])}).build()
    assert contaminated(binary, items[0]) == [0] and binary.met().to_dict()["exam"]["too_short"] == 1
    both = Config(sets={"exam": EvalSet(path=str(folder), fields=["q"])}).build()
    assert both.met().to_dict()["exam"]["items"] == 2
    before = config.fingerprint()
    pq.write_table(pa.Table.from_pylist(rows * 2), folder / "b.parquet")
    assert config.fingerprint() != before
    with pytest.raises(RecipeError, match="exactly one of path, source"):
        resolve("curate", {"use": "decontaminate", "sets": {"exam": {"fields": ["q"]}}})
    with pytest.raises(RecipeError, match="a source stands under `source`"):
        resolve("curate", {"use": "decontaminate", "sets": {"exam": lines}})
    write(folder / "a.jsonl", [{"q": None, "choices": []}, *rows])
    with pytest.raises(DataError, match="cannot be read"):  # what is not read is not protected
        resolve("curate", {"use": "decontaminate", "sets": {"exam": {"source": lines}}}).build()


def test_a_run_says_what_is_not_protected_before_it_reads(tmp_path: Path) -> None:
    from tilth.data.engine.recipe import DataRecipe
    from tilth.data.engine.run import run
    from tilth.report import data_page

    long = " ".join(salad(random.Random(5), 20))
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "a.jsonl", [{"text": long}, {"text": "Other words. " * 40}])
    sets = {"exam": {"path": write(tmp_path / "exam.jsonl", [{"text": long}, {"text": "too short"}])}}
    asked = {
        "name": "x",
        "sources": {"a": {"use": "files", "path": str(tmp_path / "in")}},
        "steps": [{"use": "decontaminate", "sets": sets}],
    }
    said: list[str] = []
    done = run(DataRecipe.model_validate(asked), root=tmp_path / "runs", engine="inline", say=said.append)
    notice = "exam: 1 of 2 items are shorter than 13 words and not protected, such as item 1 (too short)"
    assert said.index(f"00-decontaminate: {notice}") < next(i for i, s in enumerate(said) if s.startswith("read:"))
    assert done.ledger["notices"] == {"00-decontaminate": [notice]}
    exam = done.ledger["accounts"]["00-decontaminate"]["exam"]
    assert (exam["items"], exam["too_short"], exam["touched"], exam["documents"]) == (2, 1, 1, 1)
    assert notice in data_page.write(done.dir).read_text()


def test_hashes_of_n_grams_are_those_of_words_in_order() -> None:
    a, b, c = (hashing.of_bytes(w) for w in (b"a", b"b", b"c"))
    base = hashing.BASES[0]
    expected = np.array([(a * base + b) % 2**64, (b * base + c) % 2**64], np.uint64)
    assert ngrams.keys(["a", "b", "c"], 2).tolist() == hashing.mix(expected).tolist()


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared corpora")
def test_gsm8k_test_items_planted_in_training_text_are_all_found(tmp_path: Path) -> None:
    import zstandard

    def rows(name: str) -> list[dict[str, Any]]:
        with (SHARED / f"{name}.jsonl.zst").open("rb") as raw:
            return [json.loads(x) for x in io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(raw), "utf-8")]

    sets = {"gsm8k": EvalSet(path=str(SHARED / "math-gsm8k-test.jsonl.zst"), fields=["question"])}
    built = Config(sets=sets, rule="llama3", ngram=13).build()
    train = [row["text"] for row in rows("math-gsm8k-train")][:1400]
    test = [row["question"] for row in rows("math-gsm8k-test")]
    before = built.judge(batch(train)).metadata["contamination"]
    own = {tuple(plain_words(t)[i : i + 13]) for t in test for i in range(len(plain_words(t)) - 12)}
    for text, hits in zip(train, before, strict=True):  # every one of them
        words = plain_words(text)
        assert bool(hits) == any(tuple(words[i : i + 13]) in own for i in range(len(words) - 12))
    planted = [f"{text} {item}" for text, item in zip(train, test, strict=False)]
    met = built.met()
    for number, hits in enumerate(built.judge(batch(planted)).metadata["contamination"]):
        met.add(hits or [])
        if len(plain_words(test[number])) >= 13:
            assert any(h["item"] == number and h["words"] == [0, h["size"]] for h in hits)
    out = met.to_dict()["gsm8k"]
    assert out["covered"]["0.8"] == out["items"] - out["too_short"]
