"""A small terminal chat. A model that was only pretrained does not answer, it continues: so the text so far is what it
continues, either as it stands or framed as a dialogue. Works on a terminal and on piped lines."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, TextIO

from tilth.core.config import validate
from tilth.core.errors import RecipeError
from tilth.core.streams import key
from tilth.core.text import visible

from .sampling import Sampling
from .speaker import Speaker

HELP = """\
/reset          forget the text so far
/temp 0.8       temperature; 0 always takes the likeliest token
/frame dialogue frame turns as "You: … Model: …"; /frame text: your line is simply continued (default)
/quit           leave (so does the end of the input)
A line that ends in \\ goes on in the next one."""
FRAMES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "text": ("", "", ()),
    "dialogue": ("You: ", "\nModel:", ("\nYou:",)),
}
"""Before a line, after it, and what ends a reply."""


def chat(
    speaker: Speaker,
    *,
    temperature: float = 0.8,
    max_tokens: int = 200,
    seed: int = 0,
    json_output: bool = False,
    lines: Iterable[str] | None = None,
    out: TextIO | None = None,
) -> dict[str, Any]:
    """Read lines (standard input by default), stream replies to `out` (standard output) until the input ends.

    Returns the turns: {"turns": [{"you": …, "model": …}]}; with `json_output` nothing else is written.
    """
    session = _Session(speaker, temperature, max_tokens, seed, (lambda text: None) if json_output else _writer(out))
    session.say(
        f"A model of {speaker.num_parameters:,} parameters that reads {speaker.max_sequence} tokens. "
        "It continues your text; it was not taught to answer. /help lists commands.\n"
    )
    waiting = ""
    for line in _stdin(json_output) if lines is None else lines:
        waiting += line.rstrip("\r\n")
        if waiting.endswith("\\"):
            waiting = waiting[:-1] + "\n"
            continue
        line, waiting = waiting, ""
        if line.startswith("/"):
            if not session.command(line):
                break
        elif line:
            session.turn(line)
    return {"turns": session.turns}


def stream_to(write: Callable[[str], object], pieces: Iterable[str]) -> str:
    """Write pieces of text as they come, control characters escaped; Ctrl-C ends them. Returns the text as it was."""
    text = ""
    with suppress(KeyboardInterrupt):
        for piece in pieces:
            text += piece
            write(visible(piece))
    return text


class _Session:
    """The text so far, and how it is continued."""

    def __init__(
        self, speaker: Speaker, temperature: float, max_tokens: int, seed: int, say: Callable[[str], object]
    ) -> None:
        self._speaker, self._max_tokens, self._seed, self.say = speaker, max_tokens, seed, say
        self._sampling = validate(Sampling, {"temperature": temperature, "top_p": 0.95}, "chat")
        self._frame, self._text = "text", ""
        self.turns: list[dict[str, str]] = []

    def turn(self, line: str) -> None:
        """Continue the text with `line` at its end."""
        before, after, stop = FRAMES[self._frame]
        gap = "\n" if self._text and not self._text.endswith("\n") else ""
        self._text = self._fitted(f"{self._text}{gap}{before}{line}{after}")
        sampling = {**self._sampling.model_dump(), "seed": key(self._seed, "chat", len(self.turns)) >> 1}
        pieces = self._speaker.stream(self._text, self._max_tokens, stop=stop, **sampling)
        reply = stream_to(self.say, pieces)
        self.say("\n")
        self._text += reply
        self.turns.append({"you": line, "model": reply})

    def command(self, line: str) -> bool:
        """Do what a /command asks; False: leave."""
        name, _, value = line.partition(" ")
        match name:
            case "/quit" | "/exit":
                return False
            case "/reset":
                self._text = ""
                self.say("(forgotten)\n")
            case "/temp":
                try:
                    self._sampling = validate(Sampling, {"temperature": float(value), "top_p": 0.95}, "chat")
                except (ValueError, RecipeError):
                    self.say(f"(a temperature is a number from 0 up, not {visible(value)!r})\n")
            case "/frame" if value in FRAMES:
                self._frame, self._text = value, ""
                self.say(f"(frame: {value}; the text so far is forgotten)\n")
            case _:
                self.say(HELP + "\n")
        return True

    def _fitted(self, text: str) -> str:
        """The end of a text, so that half the model's sequence is left for the reply."""
        text, dropped = self._speaker.last_part(text, max(1, self._speaker.max_sequence // 2))
        if dropped:
            self.say(f"(the first {dropped} tokens no longer fit and are forgotten)\n")
        return text


def _writer(out: TextIO | None) -> Callable[[str], object]:
    file = sys.stdout if out is None else out

    def write(text: str) -> None:
        file.write(text)
        file.flush()

    return write


def _stdin(silent: bool) -> Iterable[str]:
    if not sys.stdin.isatty():
        if hasattr(sys.stdin, "reconfigure"):
            sys.stdin.reconfigure(errors="replace")
        yield from sys.stdin
        return
    with suppress(ImportError):
        import readline  # noqa: F401  (line editing and history)
    with suppress(EOFError, KeyboardInterrupt):
        while True:
            yield input("" if silent else "> ")
