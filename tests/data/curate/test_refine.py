"""The grammar of refining programs, their execution and its undoing, the rules and the models that write them."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.core.errors import DataError
from tilth.core.protocols import Edit
from tilth.data.curate.refine import Config, Refine
from tilth.data.text import programs
from tilth.data.text.line_rules import rule_programs
from tilth.data.text.programs import Call, Change, Program, apply, compose, execute, parse, undo

FIVE = "zero words here\none words here\ntwo words here\nthree words here\nfour words here and some more"
ANY = st.text(alphabet=st.one_of(st.sampled_from("ab \n\"'\\,();="), st.characters(codec="utf-8")), max_size=12)
CALLS = st.one_of(
    st.sampled_from([Call("keep_chunk"), Call("keep_doc"), Call("drop_doc")]),
    st.builds(lambda a, b: Call("remove_lines", (a, b)), st.integers(-2, 12), st.integers(-2, 12)),
    st.builds(lambda a, b: Call("normalize", (a, b)), ANY, ANY),
)
LINES = st.one_of(st.none(), st.tuples(st.integers(0, 5), st.integers(0, 9)))
SHORT = st.text(alphabet="ab\n ", max_size=4)


def batch(rows: list[str]) -> pa.RecordBatch:
    return pa.record_batch([pa.array(rows, pa.large_string())], ["text"])


# ---- grammar ---------------------------------------------------------------------------------------------------


@given(st.lists(CALLS, max_size=5))
def test_what_is_printed_is_parsed(calls: list[Call]) -> None:
    printed = str(Program(tuple(calls)))
    assert parse(printed).calls == tuple(calls) and not parse(printed).rejected
    assert str(parse(printed)) == printed


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("remove_lines(1, 2)", [Call("remove_lines", (1, 2))]),
        (
            " remove_lines ( line_end=2 , line_start = 1 ) ; keep_chunk()",
            [Call("remove_lines", (1, 2)), Call("keep_chunk")],
        ),
        ('normalize(\'a, (b)\', "c\\"d")\r\n', [Call("normalize", ("a, (b)", 'c"d'))]),
        ('normalize(source_str="x", target_str="")', [Call("normalize", ("x", ""))]),
        ('normalize("\\n\\t\\x41\\u00e9\\U0001F600")', [Call("normalize", ("\n\tAé😀", ""))]),
        ("drop_doc();", [Call("drop_doc")]),
        ("", []),
    ],
)
def test_reads(text: str, calls: list[Call]) -> None:
    assert parse(text) == Program(tuple(calls))


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('id')",
        "remove_lines(1)",
        "remove_lines(1, 2, 3)",
        "remove_lines(1,)",
        "remove_lines('1', 2)",
        "remove_lines(1.0, 2)",
        "remove_lines(0x1, 2)",
        "remove_lines(start=1, start=2)",
        "remove_lines(1, 99999999999999999999)",
        "normalize(1)",
        "normalize(f'x')",
        "normalize('a' + 'b')",
        "normalize('a",
        "normalize('\\ud800')",
        "normalize('\\q')",
        "normalize(x='a')",
        "keep_chunk(1)",
        "keep_chunk() keep_chunk()",
        "keep_chunk",
        "KEEP_CHUNK()",
        "(",
        ";",
    ],
)
def test_rejects_a_line_and_goes_on(text: str) -> None:
    got = parse(f"keep_doc()\n{text}\nremove_lines(0, 0)")
    assert [c for c in got.calls if c.name != "keep_chunk"] == [Call("keep_doc"), Call("remove_lines", (0, 0))]
    assert len(got.rejected) == 1 and got.rejected[0].error


@given(st.text(max_size=60))
def test_any_text_is_parsed_without_an_exception(text: str) -> None:
    parse(text)


# ---- execution -------------------------------------------------------------------------------------------------


def test_removes_lines_one_and_two_of_five() -> None:
    got = execute(FIVE, [parse("remove_lines(1, 2)")], min_words=5)
    assert got.outcome == "refined" and not got.errors
    assert got.text == "zero words here\nthree words here\nfour words here and some more"
    assert got.changes == [Change(16, 46, "", "remove_lines")]


def test_an_end_beyond_the_last_line_is_clamped_with_one_error() -> None:
    got = execute(FIVE, [parse("remove_lines(3, 99)")], min_words=5)
    assert (got.outcome, got.errors, got.executed) == ("refined", 1, 1)
    assert got.text == "\n".join(FIVE.split("\n")[:3])
    twice = execute(FIVE, [parse("remove_lines(3, 99)\nremove_lines(9, 9)")], min_words=5)
    assert (twice.outcome, twice.errors, twice.text, twice.changes) == ("original", 2, FIVE, [])
    assert execute(FIVE, [parse("remove_lines(3, 99)\nremove_lines(9, 9)")], min_words=5, max_errors=2).text == got.text


def test_outcomes_in_order() -> None:
    text = "\n".join(["keep"] + ["word " * 9] * 20)  # 181 words
    gone = execute(text, [parse("remove_lines(1, 20)")])
    assert (gone.outcome, gone.reason, gone.threshold) == ("drop", "almost nothing left", 0.05)
    few = execute("\n".join(["a b"] * 10), [parse("remove_lines(5, 9)")])
    assert (few.outcome, few.reason, few.value) == ("drop", "too few words left", 10)
    wrong = "\nno\nno"
    assert execute("\n".join(["a b"] * 10), [parse("remove_lines(5, 9)" + wrong)]).reason == "too few words left"
    assert execute("\n".join(["a b"] * 10), [parse("remove_lines(5, 8)" + wrong)]).outcome == "original"
    assert execute("", []).outcome == "drop" and execute("", [], min_words=-1).outcome == "unchanged"
    assert execute(FIVE, [parse("drop_doc()")]).reason == "its program drops it"
    assert execute(FIVE, [parse("keep_chunk()")]).outcome == "unchanged"


def test_normalize_comes_first_and_everywhere_unless_confined() -> None:
    program = 'remove_lines(0, 0)\nnormalize("words", "(a, b)")\nnormalize("")\nnormalize("absent")'
    got = execute(FIVE, [parse(program)], min_words=5)
    assert got.text == FIVE.replace("words", "(a, b)").partition("\n")[2]
    assert [(r.why, r.error) for r in got.rejected] == [("an empty source", False), ("nothing found", False)]
    own = execute(
        FIVE, [parse('normalize(" words")', lines=(1, 3)), parse("remove_lines(0, 4)", lines=(3, 5))], min_words=5
    )
    assert own.text.split("\n")[:3] == ["zero words here", "one here", "two here"]
    assert [r.why for r in own.rejected] == ["lines of another chunk"]


@given(st.text(alphabet="ab\n ", max_size=30), st.lists(st.tuples(st.lists(CALLS, max_size=4), LINES), max_size=3))
@settings(max_examples=300)
def test_what_was_executed_can_be_undone(text: str, written: list[tuple[list[Call], tuple[int, int] | None]]) -> None:
    parts = [Program(tuple(calls), lines=lines) for calls, lines in written]
    got = execute(text, parts, min_share=0, min_words=-1, max_errors=10)
    assert apply(text, got.changes) == got.text
    edits = [Edit(0, c.start, c.stop, c.rule, text[c.start : c.stop], c.put) for c in got.changes]
    assert all(a.stop <= b.start for a, b in itertools.pairwise(edits))
    assert undo(got.text, edits) == text
    if any(c.name == "drop_doc" and p.lines is None for p in parts for c in p.calls):
        assert got.outcome == "drop"
    elif got.outcome != "drop" and not any(p.lines for p in parts):  # as the paper's executor, literally
        new = text
        for call in (c for p in parts for c in p.calls):
            if call.name == "normalize" and call.args[0] not in ("", " "):
                new = new.replace(*call.args)  # type: ignore[arg-type]
        lines = new.split("\n")
        gone = {
            k
            for c in (c for p in parts for c in p.calls)
            if c.name == "remove_lines" and 0 <= c.args[0] < len(lines)  # type: ignore[operator]
            for k in range(int(c.args[0]), int(c.args[1]) + 1)
        }
        assert got.text == "\n".join(line for k, line in enumerate(lines) if k not in gone)


@given(st.text(alphabet="abc", max_size=20), st.randoms(use_true_random=False))
def test_changes_compose(text: str, rng: random.Random) -> None:
    def some(of: str) -> list[Change]:
        places = sorted(rng.randrange(len(of) + 1) for _ in range(2 * rng.randrange(4)))
        pairs = list(zip(places[::2], places[1::2], strict=True))
        return [Change(a, b, "xyz"[: rng.randrange(4)], "r") for a, b in pairs]

    first = some(text)
    between = apply(text, first)
    second = some(between)
    both = compose(first, between, second)
    assert apply(text, both) == apply(between, second)


def test_undo_refuses_another_text() -> None:
    edit = Edit(0, 2, 4, "r", "cd", "XY")
    assert undo("abXYef", [edit]) == "abcdef"
    with pytest.raises(DataError, match="did not make"):
        undo("abXZef", [edit])
    with pytest.raises(DataError, match="did not make"):
        undo("abXY", [edit, Edit(0, 6, 7, "r", "x", "")])


# ---- who writes them -------------------------------------------------------------------------------------------

PAGE = """Home | About us | Contact
The harvest of 1911 was the best in ten years, said the report of the county.
Share this on Facebook and Twitter
We use cookies to improve your visit. Accept all cookies?
| year | home | about |
The farmers[edit] sold most of it before the winter had begun.
https://example.org/a?b=c www.example.org
Page 3 of 12
- 3 -
42
This line stands in every page of it
This line stands in every page of it
This line stands in every page of it
return None
return None
return None"""


def test_rules_remove_what_they_name_and_no_more() -> None:
    verdicts = Config().build().judge(batch([PAGE, "Nothing to be done about this one line of more than ten words."]))
    assert verdicts.keep.all() and verdicts.text is not None
    lines = PAGE.split("\n")
    left = [lines[k] for k in (1, 4, 5, 9, 10, 11, 13, 14, 15)]
    assert verdicts.text.to_pylist()[0] == "\n".join(left).replace("[edit]", "")
    assert undo(verdicts.text.to_pylist()[0], [e for e in verdicts.edits if e.row == 0]) == PAGE
    assert {r for e in verdicts.edits for r in e.rule.split("+")} == {
        "navigation", "share", "cookies", "urls", "page_numbers", "repeated", "wiki_marks",
    }  # fmt: skip
    assert verdicts.metadata["refine"][0]["outcome"] == "refined" and verdicts.metadata["refine"][1] is None
    assert json.loads(json.dumps(verdicts.metadata)) == verdicts.metadata


@pytest.mark.parametrize("rule", ["navigation", "share", "cookies", "urls", "page_numbers", "repeated", "wiki_marks"])
def test_each_rule_can_be_left_out(rule: str) -> None:
    assert {p.label for p in rule_programs(PAGE, Config().rules)} - {
        p.label for p in rule_programs(PAGE, [r for r in Config().rules if r != rule])
    } == {rule}


def test_hostile_lines_take_no_time() -> None:
    rows = [
        "http://a" * 2000 + " x",
        "facebook " * 3000 + "?",
        "home | " * 4000,
        "share this on " + "x," * 5000,
        "- " * 9000,
    ]
    Config(min_words=0).build().judge(batch(["\n".join(rows)]))


class Script:
    """Answers in turn; a token is a word."""

    def __init__(self, answers: Sequence[str]) -> None:
        self.answers, self.prompts = list(answers), list[str]()

    def head(self, text: str, tokens: int) -> str:
        return " ".join(text.split(" ")[:tokens])

    def count(self, lines: Sequence[str]) -> list[int]:
        return [len(line.split()) for line in lines]

    def write(self, prompt: str, tokens: int) -> str:
        self.prompts.append(prompt)
        return self.answers.pop(0)


def scripted(answers: Sequence[str], **knobs: object) -> tuple[Refine, Script]:
    script = Script(answers)
    config = Config(model="script", document_prompt="D {text}", chunk_prompt="C {text}", min_words=3, **knobs)  # type: ignore[arg-type]
    return Refine(config, lambda _: script), script


def test_a_model_is_asked_about_the_document_and_then_about_each_chunk() -> None:
    step, script = scripted(
        ["drop_doc()", "keep_doc()", "keep_chunk()", 'remove_lines(2, 2)\nnormalize("words", "verbs")\ndrop_doc()'],
        stages=["document", "chunk"],
        chunk_tokens=6,
        document_tokens=4,
    )
    four = "\n".join(FIVE.split("\n")[:4])
    verdicts = step.judge(batch(["a bad one of six words", four, ""]))
    assert verdicts.keep.tolist() == [False, True, False] and verdicts.reason[0] == "its program drops it"
    assert script.prompts == [
        "D a bad one of",
        "D zero words here\none words",
        "C [000] zero words here\n[001] one words here",
        "C [002] two words here\n[003] three words here",
    ]
    assert verdicts.text is not None
    assert verdicts.text.to_pylist()[1] == "zero verbs here\none verbs here\nthree verbs here"
    step, _ = scripted(["keep_chunk()", 'normalize("words", "verbs")'], chunk_tokens=6, scope="chunk")
    new = step.judge(batch([four])).text
    assert new is not None and new.to_pylist()[0].count("verbs") == 2


def test_an_answer_that_is_no_program_leaves_the_document_and_is_logged() -> None:
    step, _ = scripted(["I think\nthis is fine\nremove_lines(0, 0)"])
    verdicts = step.judge(batch([FIVE]))
    assert verdicts.keep.all() and verdicts.text is None and not verdicts.edits
    facts = verdicts.metadata["refine"][0]
    assert (facts["outcome"], facts["errors"], facts["calls"]) == ("original", 2, 1)
    assert [r["call"] for r in facts["log"]] == ["I think", "this is fine"]


def test_a_model_directory_is_decoded_greedily(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(tmp_path / "export")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=256, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=128,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "export", safe_serialization=True)
    knobs = {"model": str(tmp_path), "answer_tokens": 8, "chunk_tokens": 40}
    step = Config(**knobs).build()  # type: ignore[arg-type]
    first, again = step.judge(batch([FIVE])), Config(**knobs).build().judge(batch([FIVE]))  # type: ignore[arg-type]
    assert first.metadata == again.metadata and first.metadata["refine"][0]["rejected"] >= 1
    assert step._writer is not None and step._writer.count(["ab", ""]) == [2, 0]
    assert step._writer.head("abcdef", 3) == "abc"
    with pytest.raises(DataError, match="no model here"):
        Config(model=str(tmp_path / "none")).build()


def test_prompts_must_hold_the_text() -> None:
    with pytest.raises(ValueError, match="chunk_prompt"):
        Config(chunk_prompt="clean it")
    assert programs._SIGNATURES.keys() == {"drop_doc", "keep_doc", "keep_chunk", "remove_lines", "normalize"}
