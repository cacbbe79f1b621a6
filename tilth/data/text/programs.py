"""Refining programs: a few operations on a text, parsed by a grammar, never evaluated; executed, logged, undone.

    program   := { call [ ";" ] }                       calls stand on lines of their own, or after a semicolon
    call      := name "(" [ argument { "," argument } ] ")"
    argument  := [ keyword "=" ] ( integer | string )
    string    := '"' … '"' | "'" … "'"                  escapes \\\\ \\" \\' \\n \\r \\t \\xhh \\uhhhh \\Uhhhhhhhh

    drop_doc()                  the document goes
    keep_doc() keep_chunk()     nothing is done
    remove_lines(start, end)    lines start to end, counted from 0, both included
    normalize(source, target)   every `source` becomes `target`; without a target, nothing

After ProX (Zhou et al. 2024, arXiv:2409.17115, section 3.3). As in its executor, all normalize calls of a document's
programs are done first, then remove_lines. What differs: strings may hold commas, quotes and parentheses; a program can
be confined to the lines of its chunk; what is not executed is said; an empty document is no division by zero.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from tilth.core.errors import DataError

_SIGNATURES: dict[str, tuple[tuple[str, type], ...]] = {
    "drop_doc": (),
    "keep_doc": (),
    "keep_chunk": (),
    "remove_lines": (("start", int), ("end", int)),
    "normalize": (("source", str), ("target", str)),
}
_KEYWORDS = {"line_start": "start", "line_end": "end", "source_str": "source", "target_str": "target"}
_OPTIONAL = {("normalize", "target"): ""}
_SPACE = re.compile(r"[ \t\r]*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NUMBER = re.compile(r"[+-]?[0-9]{1,18}(?![0-9A-Za-z_.])")
_ESCAPE = re.compile(r"\\(?:[\\\"'nrt]|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8})")
_PLAIN = {"\\": "\\", '"': '"', "'": "'", "n": "\n", "r": "\r", "t": "\t"}
_PRINTED = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


class Call(NamedTuple):
    """One operation with its arguments in the order of its signature."""

    name: str
    args: tuple[int | str, ...] = ()

    def __str__(self) -> str:
        shown = (
            str(a) if isinstance(a, int) else '"' + "".join(_PRINTED.get(c, c) for c in a) + '"' for a in self.args
        )
        return f"{self.name}({', '.join(shown)})"


class Rejected(NamedTuple):
    """What was not executed, or not as it stands."""

    call: str
    why: str
    error: bool = True
    """Whether it counts as an error of the program, or was merely without effect."""


@dataclass(frozen=True)
class Program:
    """A parsed program."""

    calls: tuple[Call, ...] = ()
    rejected: tuple[Rejected, ...] = ()
    """Lines that are no calls."""
    label: str = ""
    """Who wrote it: the rule named in its edits; "": the operation's name."""
    lines: tuple[int, int] | None = None
    """First line of its chunk and the one after the last: it changes only these; None: the whole document."""

    def __str__(self) -> str:
        return "\n".join(map(str, self.calls))


class _Wrong(Exception):
    pass


def _past(line: str, at: int) -> int:
    """Where the space that begins at a place ends."""
    found = _SPACE.match(line, at)
    return found.end() if found else at


def parse(text: str, label: str = "", lines: tuple[int, int] | None = None) -> Program:
    """The calls of a program; a line from the first character that fits no call on is rejected."""
    calls, rejected = [], []
    for line in text.split("\n"):
        at = _past(line, 0)
        while at < len(line):
            try:
                call, after = _call(line, at)
                after = _past(line, after)
                if after < len(line) and line[after] != ";":
                    raise _Wrong("a new line or ';' must follow a call")
            except _Wrong as err:
                rejected.append(Rejected(line[at:], str(err)))
                break
            calls.append(call)
            at = _past(line, after + 1) if after < len(line) else after
    return Program(tuple(calls), tuple(rejected), label, lines)


def _call(line: str, at: int) -> tuple[Call, int]:
    match = _NAME.match(line, at)
    if not match or match[0] not in _SIGNATURES:
        raise _Wrong("no known operation")
    name, at = match[0], match.end()
    signature = _SIGNATURES[name]
    given: dict[str, int | str] = {}
    at = _expect(line, at, "(")
    while True:
        at = _past(line, at)
        if line[at : at + 1] == ")":
            at += 1
            break
        if given:
            at = _past(line, _expect(line, at, ","))
        if len(given) == len(signature):
            raise _Wrong("too many arguments")
        key = signature[len(given)][0]
        if (match := _NAME.match(line, at)) is not None:
            key, at = _KEYWORDS.get(match[0], match[0]), _expect(line, match.end(), "=")
            at = _past(line, at)
        if key in given or key not in dict(signature):
            raise _Wrong(f"no argument '{key}' fits here")
        value, at = _value(line, at)
        if type(value) is not dict(signature)[key]:
            raise _Wrong(f"{key} must be {'a number' if dict(signature)[key] is int else 'a text in quotes'}")
        given[key] = value
    for key, _ in signature:
        if key not in given:
            if (name, key) not in _OPTIONAL:
                raise _Wrong(f"{key} is missing")
            given[key] = _OPTIONAL[name, key]
    return Call(name, tuple(given[key] for key, _ in signature)), at


def _expect(line: str, at: int, what: str) -> int:
    at = _past(line, at)
    if line[at : at + 1] != what:
        raise _Wrong(f"'{what}' is missing")
    return at + 1


def _value(line: str, at: int) -> tuple[int | str, int]:
    if (number := _NUMBER.match(line, at)) is not None:
        return int(number[0]), number.end()
    quote, out = line[at : at + 1], []
    if quote not in ("'", '"') or not quote:
        raise _Wrong("a number or a text in quotes is missing")
    at += 1
    while at < len(line) and line[at] != quote:
        if line[at] != "\\":
            out.append(line[at])
            at += 1
            continue
        match = _ESCAPE.match(line, at)
        if not match:
            raise _Wrong("an unknown escape")
        code = match[0][1:]
        number_ = int(code[1:], 16) if len(code) > 1 else -1
        if number_ > 0x10FFFF or 0xD800 <= number_ <= 0xDFFF:
            raise _Wrong("an escape that is no character")
        out.append(chr(number_) if number_ >= 0 else _PLAIN[code])
        at = match.end()
    if at >= len(line):
        raise _Wrong("a quote is not closed")
    return "".join(out), at + 1


# ---- execution -------------------------------------------------------------------------------------------------


class Change(NamedTuple):
    """Characters `start` to `stop` of the text before, and what stands there after."""

    start: int
    stop: int
    put: str
    rule: str


class _Change(Protocol):
    start: int
    stop: int
    removed: str
    put: str


@dataclass
class Result:
    """What programs made of a text."""

    text: str
    changes: list[Change]
    """Of the text before, in order and apart; none if the text stays as it was."""
    outcome: Literal["refined", "unchanged", "drop", "original"]
    reason: str = ""
    """Why it is dropped, or why it stays in spite of its program."""
    value: float = float("nan")
    """What was measured for that."""
    threshold: float = float("nan")
    executed: int = 0
    """Calls that changed something, or asked for nothing."""
    rejected: list[Rejected] = field(default_factory=list)

    @property
    def errors(self) -> int:
        """Errors of the programs."""
        return sum(r.error for r in self.rejected)


def execute(
    text: str, programs: Sequence[Program], min_share: float = 0.05, min_words: int = 10, max_errors: int = 1
) -> Result:
    """Do the programs of a document, in order: all normalize calls, then all remove_lines.

    min_share   documents that keep at most this share of their words are dropped, if errors permit
    min_words   documents that keep at most so many words are dropped
    max_errors  with more errors the document stays as it was
    """
    result = Result(text, [], "unchanged", rejected=[r for p in programs for r in p.rejected])
    todo = [(call, program) for program in programs for call in program.calls]
    for call, program in todo:
        if call.name == "drop_doc":
            if program.lines is None:
                return Result(text, [], "drop", "its program drops it", executed=1, rejected=result.rejected)
            result.rejected.append(Rejected(str(call), "a chunk's program drops no document"))
        result.executed += call.name in ("keep_doc", "keep_chunk")
    new, changes = text, list[Change]()
    for call, program in todo:
        if call.name == "normalize":
            made = _normalize(new, call, program, result)
            changes = compose(changes, new, made)
            new = apply(new, made)
    made = _remove_lines(new, [(c, p) for c, p in todo if c.name == "remove_lines"], result)
    changes = [c for c in compose(changes, new, made) if text[c.start : c.stop] != c.put]
    new = apply(new, made)
    before, after = len(text.split()), len(new.split())
    share, errors = after / before if before else 1.0, result.errors
    if share <= min_share and errors <= max_errors:
        result.outcome, result.reason, result.value, result.threshold = "drop", "almost nothing left", share, min_share
    elif after <= min_words:
        result.outcome, result.reason, result.value, result.threshold = "drop", "too few words left", after, min_words
    elif errors > max_errors:
        result.outcome, result.reason = "original", "too many errors in its program"
    elif changes:
        result.outcome, result.text, result.changes = "refined", new, changes
    return result


def _normalize(text: str, call: Call, program: Program, result: Result) -> list[Change]:
    source, target = map(str, call.args)
    if source in ("", " "):
        result.rejected.append(Rejected(str(call), "an empty source", error=False))
        return []
    low, high = _within(text, program)
    made, at = [], text.find(source, low, high)
    while at >= 0:
        made.append(Change(at, at + len(source), target, program.label or "normalize"))
        at = text.find(source, at + len(source), high)
    if made:
        result.executed += 1
    else:
        result.rejected.append(Rejected(str(call), "nothing found", error=False))
    return made


def _within(text: str, program: Program) -> tuple[int, int]:
    """Characters of the program's lines."""
    if program.lines is None:
        return 0, len(text)
    starts = _line_starts(text)
    first, stop = program.lines
    return starts[min(first, len(starts) - 1)], starts[stop] - 1 if stop < len(starts) else len(text)


def _line_starts(text: str) -> list[int]:
    return [0, *(m.end() for m in re.finditer("\n", text))]


def _remove_lines(text: str, todo: list[tuple[Call, Program]], result: Result) -> list[Change]:
    starts = _line_starts(text)
    gone: dict[int, str] = {}
    for call, program in todo:
        start, end = (int(a) for a in call.args)
        first, stop = program.lines or (0, len(starts))
        if not 0 <= start < len(starts):
            result.rejected.append(Rejected(str(call), "no such line"))
        elif end < start:
            result.rejected.append(Rejected(str(call), "it ends before it begins"))
        elif start < first or min(end, len(starts) - 1) >= stop:
            result.rejected.append(Rejected(str(call), "lines of another chunk"))
        else:
            if end >= len(starts):
                result.rejected.append(Rejected(str(call), "ends at the last line"))
            for line in range(start, min(end, len(starts) - 1) + 1):
                gone.setdefault(line, program.label or call.name)
            result.executed += 1
    changes: list[Change] = []
    for _, run in itertools.groupby(enumerate(sorted(gone)), key=lambda pair: pair[1] - pair[0]):
        lines = [line for _, line in run]
        start, after = starts[lines[0]], lines[-1] + 1
        if after < len(starts):
            stop = starts[after]
        else:  # the last line takes the break before it with it
            start, stop = max(0, start - 1), len(text)
        changes.append(Change(start, stop, "", "+".join(dict.fromkeys(gone[line] for line in lines))))
    return changes


def apply(text: str, changes: Sequence[Change]) -> str:
    """The text after changes that are in order and apart."""
    out, at = [], 0
    for change in changes:
        out += [text[at : change.start], change.put]
        at = change.stop
    return "".join([*out, text[at:]])


def compose(first: Sequence[Change], between: str, second: Sequence[Change]) -> list[Change]:
    """Changes of the first text that do what `first` and then `second` do; `between` is the text after `first`."""
    moved, shift = [], 0
    for change in first:
        start = change.start + shift
        shift += len(change.put) - (change.stop - change.start)
        moved.append((start, start + len(change.put), change, True))
    both = sorted([*moved, *((c.start, c.stop, c, False) for c in second)], key=lambda row: (row[0], row[1], row[3]))
    out: list[Change] = []
    shift = at = 0
    while at < len(both):
        low, high, group = both[at][0], both[at][1], []
        while at < len(both) and both[at][0] <= high:  # what touches becomes one
            high = max(high, both[at][1])
            group.append(both[at])
            at += 1
        start = low + shift
        shift -= sum(len(c.put) - (c.stop - c.start) for *_, c, of_first in group if of_first)
        local = [c._replace(start=c.start - low, stop=c.stop - low) for *_, c, of_first in group if not of_first]
        rules = dict.fromkeys(rule for *_, c, _ in group for rule in c.rule.split("+"))
        out.append(Change(start, high + shift, apply(between[low:high], local), "+".join(rules)))
    return out


def undo(text: str, edits: Sequence[_Change]) -> str:
    """The text before `edits` (such as `tilth.core.protocols.Edit`, in order), exactly.

    Raises DataError if the text is not what they made.
    """
    out, at, shift = [], 0, 0
    for edit in edits:
        start = edit.start + shift
        if text[start : start + len(edit.put)] != edit.put or start < at or len(edit.removed) != edit.stop - edit.start:
            raise DataError("these edits did not make this text.", where=f"character {start}")
        out += [text[at:start], edit.removed]
        at = start + len(edit.put)
        shift += len(edit.put) - len(edit.removed)
    if at > len(text):
        raise DataError("these edits did not make this text.", where=f"character {at}")
    return "".join([*out, text[at:]])
