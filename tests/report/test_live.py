"""The consoles: what lines hold, where they go, and that text from data cannot drive a terminal."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from tilth.core import progress
from tilth.report import live

ROW = {
    "stage": "pretrain", "step": 120, "steps": 2000, "global_step": 120, "loss": 3.41234, "grad_norm": 0.8249,
    "lr": 1e-3, "tokens": 491_520, "tokens_per_second": 8740.4, "flops_per_second": 2.82e11, "utilization": 0.634,
    "peak_memory_bytes": 2 * 1024**3, "data_wait_seconds": 0.0003, "step_seconds": 0.47, "eta_seconds": 192.0,
}  # fmt: skip


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")


def test_step_line_says_everything_asked_for() -> None:
    assert live.step_line(ROW) == (
        "pretrain  120/2000  loss 3.4123  grad 0.82  lr 1.00e-03  492ktok  8,740 tok/s  282 GFLOP/s (63 %)  "
        "mem 2 GiB  wait 0.3 ms  eta 3:12"
    )


def test_step_line_of_an_empty_row_and_of_nan_is_still_a_line() -> None:
    assert "loss –" in live.step_line({})
    assert "loss nan" in live.step_line({**ROW, "loss": float("nan")})


def test_eval_line() -> None:
    row = {"step": 20, "global_step": 120, "bits_per_byte": {"code": 1.6234, "prose": 2.0}}
    assert live.eval_line(row) == "held out at step 120: code 1.623, prose 2.000 bits per byte"


def test_plain_lines_elsewhere_than_on_a_terminal() -> None:
    out = io.StringIO()
    c = live.console(stream=out)
    c.say("reading \x1b[31mred\x1b[0m [bold]text[/bold]")
    c.step(ROW)
    c.eval({"step": 1, "bits_per_byte": {"a": 1.0}})
    c.close()
    lines = out.getvalue().splitlines()
    assert lines[0] == r"reading \x1b[31mred\x1b[0m [bold]text[/bold]"
    assert lines[1] == live.step_line(ROW) and len(lines) == 3
    assert "\x1b" not in out.getvalue()


@pytest.mark.parametrize("name", ["NO_COLOR", "TERM"])
def test_a_dumb_terminal_gets_plain_lines(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, {"NO_COLOR": "1", "TERM": "dumb"}[name])
    out = Terminal()
    live.console(stream=out).step(ROW)
    assert out.getvalue() == live.step_line(ROW) + "\n"


def test_other_ranks_and_quiet_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    c = live.console(quiet=True, stream=out)
    c.say("x"), c.step(ROW), c.eval(ROW), c.close()
    monkeypatch.setenv("RANK", "1"), monkeypatch.setenv("WORLD_SIZE", "2")
    live.console(stream=out).say("x")
    assert out.getvalue() == ""


def test_json_leaves_standard_output_to_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    live.console(json=True).say("working")
    live.console().say("plainly")
    said = capsys.readouterr()
    assert said.out == "plainly\n" and said.err == "working\n"


def test_live_bar_draws_and_leaves_the_last_line() -> None:
    out = Terminal()
    c = live.console(stream=out)
    c.step(ROW)
    c.say("saved \x1b]0;title\x07 [red]not red[/red]")
    c.step({**ROW, "step": 2000, "eta_seconds": 0.0})
    c.close()
    c.say("after")
    shown = out.getvalue()
    assert "━" in shown and "120/2000" in shown  # the bar was drawn
    assert r"\x1b]0;title\x07 [red]not red[/red]" in shown and "\x1b]0;" not in shown
    assert "pretrain 2000/2000  loss 3.4123" in shown  # left behind
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h")  # the cursor is back
    assert shown.rstrip().endswith("after")


def test_a_new_stage_gets_a_new_bar() -> None:
    out = Terminal()
    c = live.console(stream=out)
    c.step(ROW)
    c.step({**ROW, "stage": "anneal", "step": 1, "steps": 50})
    c.close()
    shown = out.getvalue()
    assert "pretrain  120/2000" in shown and "anneal  1/50" in shown


def test_text_the_stream_cannot_encode_is_escaped() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    live.Plain(stream).say("größe")
    assert raw.getvalue() == b"gr\\xf6\\xdfe\n"


def test_importing_live_needs_neither_torch_nor_numpy_nor_rich() -> None:
    code = "import sys, tilth.report.live; print([m for m in ('torch', 'numpy', 'rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class Clock:
    """A clock that is set by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("tilth.core.progress.clock", made)
    return made


def test_a_stage_of_more_than_ten_seconds_says_how_far_it_is_and_how_long_to_go(clock: Clock) -> None:
    out = io.StringIO()
    c = live.console(stream=out)
    with progress.stage("tokenising \x1b[31mcode", total=200e6) as advance:
        for seconds in (5, 9, 12, 15, 21, 33):
            clock.now = 100.0 + seconds
            advance(10e6)
    c.close()
    assert out.getvalue().splitlines() == [
        "tokenising \\x1b[31mcode: 15% of 200 MB, 2.5 MB/s, 1:08 to go",  # 30 MB in 12 s
        "tokenising \\x1b[31mcode: 30% of 200 MB, 1.82 MB/s, 1:17 to go",
    ]
    with progress.stage("later") as advance:  # nobody listens any more
        clock.now += 100
        advance(1)
    assert len(out.getvalue().splitlines()) == 2


def test_short_stages_say_nothing_and_what_has_no_total_says_what_is_done(clock: Clock) -> None:
    out = io.StringIO()
    live.console(stream=out)
    with progress.stage("scoring", 10, "tokens") as advance:
        clock.now += 9
        advance(10)
    with progress.stage("reading", unit="documents") as advance:
        clock.now += 20
        advance(1234)
    progress.listen(None)
    assert out.getvalue().splitlines() == ["reading: 1,234 documents, 0:20 so far"]


def test_work_is_a_line_at_the_foot_of_a_terminal_and_leaves_nothing_behind(clock: Clock) -> None:
    out = Terminal()
    c = live.console(stream=out)
    with progress.stage("reading", 100, "documents") as advance:
        clock.now += 20
        advance(50)
    c.close()
    assert "reading: 50% of 100 documents, 0:20 to go" in out.getvalue()
    assert out.getvalue().rstrip().endswith(("\x1b[2K", "\x1b[?25h", "\r"))


def test_the_stages_of_a_run_reach_whoever_listens(tmp_path: Path) -> None:
    from tilth import job
    from tilth.core import recipe as recipes

    (tmp_path / "a.txt").write_text("\n\n".join(f"Line {i} of words and words." for i in range(300)))
    path = tmp_path / "r.yaml"
    path.write_text(
        "name: r\ncorpus: {sources: {a: {use: files, path: a.txt, separator: '\\n\\n'}}, holdout: {fraction: 0.1}}\n"
        "tokenizer: {use: bpe, vocab_size: 270}\nmodel: {use: decoder, layers: 1, width: 16, heads: 2}\n"
        "batch: {tokens: 64, sequence: 32}\nbudget: {steps: 2}\n"
    )
    seen: dict[str, tuple[float, float | None]] = {}
    progress.listen(lambda s: seen.update({s.what: (s.done, s.total)}) if s.ended else None)
    try:
        job.prepare(recipes.load(path).recipe, tmp_path / "cache", lambda line: None)
    finally:
        progress.listen(None)
    assert list(seen) == ["reading a", "training the tokenizer", "tokenising a/train", "tokenising a/held_out"]
    assert all(done == total for what, (done, total) in seen.items() if total is not None)
