"""The page without a browser: what it says, what it says when files are missing, and that nothing escapes from it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tilth.core.errors import DataError
from tilth.report import page
from tilth.report.files import MEANING, gather
from tilth.report.training import training

VOID = {"meta", "link", "rect", "line", "circle", "path", "br"}


class Outline(HTMLParser):
    """Elements, attributes and text of a page; fails on tags that do not match."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text += data


def outline(html: str) -> Outline:
    parsed = Outline()
    parsed.feed(html)
    parsed.close()
    assert parsed.open == []
    return parsed


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, build_run: Callable[..., Path]) -> Path:
    return build_run(tmp_path_factory.mktemp("report") / "run", steps=120, second=40)


@pytest.fixture(scope="module")
def html(run: Path) -> str:
    return page.write(run).read_text(encoding="utf-8")


def squeezed(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def test_the_headline_says_what_was_trained_on_what_and_how_good_it_is(html: str) -> None:
    said = squeezed(outline(html).text)
    asked = "A language model of 4.24 million parameters, trained on 655,360 tokens of code and prose, in 4 min 32 s."
    assert asked in said
    # 1 - 1.5121 / 1.731 = 12.6 %
    assert "Held-out code costs 1.512 bits per byte, 13 % fewer than the best baseline" in said
    assert "the best baseline, zstd with the training text (1.731)." in said
    assert "Held-out prose costs 1.853 bits per byte, 8.7 % fewer than the best baseline, byte 5-gram (2.031)." in said


def test_a_model_that_loses_is_said_to_lose(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    found = json.loads((copy / "eval.json").read_text())
    found["bits_per_byte"]["domains"]["code"]["bits_per_byte"] = 2.597
    (copy / "eval.json").write_text(json.dumps(found))
    said = squeezed(outline(page.render(copy)).text)
    assert "Held-out code costs 2.597 bits per byte, 50 % more than the best baseline" in said
    assert "(1.731); the model beats guessing bytes evenly and byte frequencies." in said


def test_sections_come_in_order_and_hold_the_numbers(html: str) -> None:
    parsed = outline(html)
    ids = [a["id"] for t, a in parsed.tags if t == "section"]
    assert ids == ["asked", "data", "training", "evaluation", "samples", "cost", "events", "again"]
    said = squeezed(parsed.text)
    for expected in (
        "363 of 11,052 documents were left out",  # 1742 - 1568 + 9310 - 9121
        "near duplicate (0.87)",
        "prose22 %108,134108,1340.060.06", "6.02 million", "encodings/cp1250.py",
        "the model finds the right one likelier in 62 % (95 % interval 60 % to 63 %)",
        "tilth run recipes/first.yaml model.width=256 optim.lr=0.006", "2.13.0+cpu",
        "checkpoint skipped", "model.0.safetensors does not match its checksum", "bytes 51 MB; seconds 400 ms",
        "1.29 GiB", "1.38 GiB", "+7 % (usually ±4 %)",
        "command line", "recipes/first.yaml",
    ):  # fmt: skip
        assert expected in said, expected


def test_questions_are_a_table_with_their_errors_and_chance(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    half = {"value": 0.5, "stderr": 0.1}
    own = {"metrics": {"acc": half}, "n": 25, "chance": 0.25, "made_from": "/far/q.jsonl", "contexts": "lm-eval's"}
    lm = {"mine": {"n": 7, "metrics": {"perplexity": {"value": 31.5, "stderr": None}}}}
    evaluation = json.loads((run / "eval.json").read_text())
    evaluation |= {"multiple_choice": own, "lm_eval": {"tasks": lm, "version": "lm-eval 1", "limit": 7}}
    (tmp_path / "run" / "eval.json").write_text(json.dumps(evaluation))
    said = squeezed(outline(page.render(tmp_path / "run")).text)
    for words in ("multiple choice", "q.jsonl", "acc, 25 questions", "0.500 ± 0.100", "lm-eval's.", "31.500"):
        assert words in said, words
    assert "perplexity, 7 questions" in said and "lm-eval 1; the first 7 questions of each" in said
    assert "metrics.acc" not in said  # not once more as plain numbers


def test_the_final_numbers_stand_at_the_step_that_was_kept(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    event = {"event": "kept", "time": 5.0, "global_step": 90, "by": "bits_per_byte", "value": 1.25, "last": 1.5}
    with (tmp_path / "run" / "events.jsonl").open("a") as file:
        file.write(json.dumps(event) + "\n")
    (chart,) = [c for c in training(gather(tmp_path / "run"))["charts"] if c["title"] == "Held-out text"]
    assert all(90 in line["at"] for line in chart["points"])
    sentence = "The weights of step 90 were kept, the best by bits_per_byte: 1.25; the last weights have 1.5."
    assert sentence in squeezed(outline(page.render(tmp_path / "run")).text)


def test_text_from_data_stays_text_and_control_characters_are_seen(html: str, hostile: str) -> None:
    parsed = outline(html)
    assert [t for t, _ in parsed.tags].count("script") == 2  # the data and the charts
    assert r"<script>alert(1)</script>\x1b[31m\u202e</pre>\x00&amp;" in parsed.text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", html)


def test_the_page_asks_for_nothing_and_lets_nothing_foreign_run(html: str) -> None:
    parsed = outline(html)
    for tag, attrs in parsed.tags:
        assert tag not in ("img", "iframe", "object", "embed", "form", "base", "audio", "video", "source")
        assert not {"style", "onload", "onclick", "onerror"} & set(attrs)
        for name in ("src", "href", "srcset", "action", "data", "xlink:href"):
            assert (attrs.get(name) or "data:,").startswith(("data:,", "#")), (tag, attrs)
    assert not re.search(r"url\((?!#)|@import", html)
    policy = next(a["content"] for t, a in parsed.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy and "default-src 'none'" in policy and "unsafe" not in policy
    inline = re.findall(r"<(style|script)>(.*?)</\1>", html, re.S)
    assert {k for k, _ in inline} == {"style", "script"}
    for kind, body in inline:
        named = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{named}'" in policy


def test_inert_json_reads_back_and_cannot_leave_its_element() -> None:
    data = {"</script><!-- & ]]>": ["\u2028", "<b>", 1.5, None]}
    text = page.inert_json(data)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == data


@pytest.mark.parametrize("name", sorted(MEANING))
def test_a_missing_file_is_said_and_the_rest_stands(name: str, run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / name).unlink()
    parsed = outline(page.render(copy))
    assert f"There is no {name} in this run directory: {MEANING[name]} cannot be shown." in parsed.text
    assert [t for t, _ in parsed.tags].count("section") == 8


@pytest.mark.parametrize("name", sorted(MEANING))
@pytest.mark.parametrize("damage", [b"\xff\xfe\x00", b'{"a": ', b"[[[[1]]]]\n", b"7", b"[" * 100_000])
def test_a_damaged_file_is_said_and_the_rest_stands(name: str, damage: bytes, run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / name).write_bytes(damage)
    page.render(copy)
    if not (name == "samples.json" and damage.startswith(b"[[[[1")):  # a list that holds no samples
        assert name in gather(copy).notes


def test_files_that_were_not_read_are_counted_whole(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    data = json.loads((copy / "data.json").read_text())
    next(iter(data["sources"].values()))["passed_over"] = {".docx": 2, "hidden": 1, "x": "many"}
    (copy / "data.json").write_text(json.dumps(data))
    assert "3 files not read (.docx 2, hidden 1)" in page.render(copy)


def test_damaged_lines_are_counted(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    with (copy / "metrics.jsonl").open("a") as f:
        f.write('{"step": 1\nnonsense\n')
    assert "2 damaged lines of metrics.jsonl are left out." in outline(page.render(copy)).text


def test_a_file_that_leads_out_of_the_run_directory_is_not_read(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    (tmp_path / "secret").write_text('{"status": "SECRET"}')
    (copy / "status.json").unlink()
    (copy / "status.json").symlink_to(tmp_path / "secret")
    html = page.render(copy)
    assert "SECRET" not in html and "leads out of its directory" in html


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no run directory"):
        page.write(tmp_path)
    with pytest.raises(DataError, match="no such run directory"):
        page.write(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=()), max_size=8),
    lambda kids: st.lists(kids, max_size=3) | st.dictionaries(st.text(max_size=6), kids, max_size=3),
    max_leaves=6,
)


def _places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = node.items() if isinstance(node, dict) else enumerate(node[:3]) if isinstance(node, list) else ()
    return [path, *(p for k, v in items for p in _places(v, (*path, k)))]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_whatever_stands_in_the_files_the_page_is_whole(data: st.DataObject, run: Path, tmp_path: Path) -> None:
    """Any value of any file replaced by anything: still a well-formed page with two scripts and eight sections."""
    copy = tmp_path / "copy"
    shutil.copytree(run, copy, dirs_exist_ok=True)
    name = data.draw(st.sampled_from(sorted(MEANING)))
    if name == "recipe.yaml":
        import yaml

        content = yaml.safe_load((copy / name).read_text())
    elif name.endswith(".jsonl"):
        content = [json.loads(line) for line in (copy / name).read_text().splitlines()]
    else:
        content = json.loads((copy / name).read_text())
    path = data.draw(st.sampled_from(_places(content)[1:]))
    node = content
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = data.draw(JSON)
    lines = [json.dumps(r) + "\n" for r in content] if name.endswith(".jsonl") else [json.dumps(content)]
    (copy / name).write_text("".join(lines))
    parsed = outline(page.render(copy))
    assert [t for t, _ in parsed.tags].count("section") == 8
    assert [t for t, _ in parsed.tags].count("script") == 2


def test_of_a_step_done_twice_the_last_counts_and_curves_stay_small(
    tmp_path: Path, build_run: Callable[..., Path]
) -> None:
    run = build_run(tmp_path / "run", steps=5000, second=0)
    with (run / "metrics.jsonl").open("a") as f:
        f.write(json.dumps({"stage": "pretrain", "step": 77, "global_step": 77, "loss": 99.0}) + "\n")
    seen = training(gather(run))
    assert seen["count"] == 5000
    assert seen["thinned"] and len(seen["x"]) <= 2000
    loss = next(c for c in seen["charts"] if c["title"] == "Training loss")["lines"][0]
    assert loss["raw"][seen["x"].index(77)] == 99.0
    assert len(loss["raw"]) == len(loss["smooth"]) == len(seen["x"]) == len(seen["tokens"]) == len(seen["stage"])


def test_held_out_points_end_in_the_final_evaluation(run: Path) -> None:
    chart = next(c for c in training(gather(run))["charts"] if c["title"] == "Held-out text")
    code = next(p for p in chart["points"] if p["name"] == "code")
    assert code["at"] == [150, 160] and code["values"][-1] == 1.5121
    assert {lv["value"] for lv in chart["levels"]} == {1.731, 2.031}


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_colours_have_the_contrast_wcag_asks_for(mode: int) -> None:
    css = (page.HERE / "page.css").read_text()
    block = re.findall(r":root \{(.*?)\}", css, re.S)[mode]
    colour = dict(re.findall(r"--([\w]+): (#[0-9a-f]{6});", block))
    for ground in ("paper", "raised"):
        for name in ("ink", "soft", "warn", "c0", "c1", "c2", "c3", "c4", "c5"):
            low, high = sorted((_luminance(colour[name]), _luminance(colour[ground])))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (name, ground)
