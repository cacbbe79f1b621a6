"""The chat on lines that are given, and on a pipe."""

from __future__ import annotations

import io

from tilth.eval import chat as module
from tilth.eval.chat import chat, stream_to


def talk(speaker, lines: list[str], **kwargs) -> tuple[list[dict], str]:
    out = io.StringIO()
    turns = chat(speaker, lines=lines, out=out, max_tokens=8, **kwargs)["turns"]
    return turns, out.getvalue()


def test_a_reply_continues_the_text_so_far(make_speaker) -> None:
    speaker = make_speaker(sequence=128)
    turns, said = talk(speaker, ["def f(", "import os"], temperature=0.0)
    first = speaker.generate(["def f("], 8, temperature=0)[0]
    second = speaker.generate([f"def f({first}\nimport os"], 8, temperature=0)[0]
    assert turns == [{"you": "def f(", "model": first}, {"you": "import os", "model": second}]
    assert "It continues your text; it was not taught to answer." in said


def test_commands(make_speaker) -> None:
    speaker = make_speaker(sequence=128)
    alone = speaker.generate(["x"], 8, temperature=0)[0]
    lines = ["/temp 0", "def", "/reset", "x", "/temp hot", "/what", "/quit", "never"]
    turns, said = talk(speaker, lines)
    assert turns[-1] == {"you": "x", "model": alone}
    assert len(turns) == 2
    for expected in ("(forgotten)", "a temperature is a number from 0 up, not 'hot'", "/frame dialogue"):
        assert expected in said


def test_the_dialogue_frame_puts_names_and_stops_at_the_next_turn(make_speaker, monkeypatch) -> None:
    speaker, asked = make_speaker(sequence=128), []

    def stream(text, max_tokens, **settings):
        asked.append((text, settings["stop"]))
        yield " yes"

    monkeypatch.setattr(speaker, "stream", stream)
    talk(speaker, ["/frame dialogue", "hello", "really"])
    first = "You: hello\nModel:"
    assert asked == [(first, ("\nYou:",)), (f"{first} yes\nYou: really\nModel:", ("\nYou:",))]


def test_a_text_too_long_is_cut_with_a_word(make_speaker) -> None:
    speaker = make_speaker(sequence=32)
    turns, said = talk(speaker, ["value " * 60], temperature=0.0)
    kept, dropped = speaker.last_part("value " * 60, 16)
    assert f"(the first {dropped} tokens no longer fit and are forgotten)" in said
    assert turns[0]["model"] == speaker.generate([kept], 8, temperature=0)[0]


def test_seeds_and_turns_differ(make_speaker) -> None:
    speaker = make_speaker(sequence=128)
    lines = ["def", "/reset", "def"]
    one, two, again = (talk(speaker, lines, temperature=1.0, seed=s)[0] for s in (0, 1, 0))
    assert one == again != two
    assert one[0] != one[1]


def test_a_backslash_joins_lines_and_json_is_silent(make_speaker) -> None:
    out = io.StringIO()
    turns = chat(make_speaker(), lines=["if x:\\\n", "    y\n"], out=out, max_tokens=2, json_output=True)["turns"]
    assert turns[0]["you"] == "if x:\n    y"
    assert out.getvalue() == ""


def test_what_drives_a_terminal_is_escaped() -> None:
    written: list[str] = []
    assert stream_to(written.append, ["a\x1b[2J", "b\r\u202e\n"]) == "a\x1b[2Jb\r\u202e\n"
    assert "".join(written) == "a\\x1b[2Jb\\x0d\\u202e\n"


def test_ctrl_c_ends_the_reply_only() -> None:
    def pieces():
        yield "a"
        raise KeyboardInterrupt

    assert stream_to(lambda text: None, pieces()) == "a"


def test_piped_lines(make_speaker, monkeypatch, capsys) -> None:
    monkeypatch.setattr(module.sys, "stdin", io.TextIOWrapper(io.BytesIO(b"de\xfff\n"), encoding="utf-8"))
    turns = chat(make_speaker(), max_tokens=2)["turns"]
    assert turns[0]["you"] == "de\ufffdf"
    assert "It continues your text" in capsys.readouterr().out
