"""What errors, help and pages advise exists: every verb, option and file of every `tilth …` they name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from tilth.cli import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", *(str(p.relative_to(ROOT)) for p in sorted((ROOT / "docs").glob("*.md")))]
QUOTED = re.compile(r"`tilth ([^`]+)`")


def text_of(node: ast.AST) -> str:
    """A string as its reader sees it, with X for what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) if isinstance(part, ast.Constant) else "X" for part in node.values)
    return ""


def in_code() -> Iterator[tuple[str, str]]:
    """(place, command) of what strings advise: in backticks anywhere, or as the whole of a `fix`."""
    for path in sorted((ROOT / "tilth").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            place = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            for command in QUOTED.findall(text_of(node)):
                yield place, command
            if isinstance(node, ast.keyword) and node.arg == "fix" and text_of(node.value).startswith("tilth "):
                yield place, text_of(node.value).removeprefix("tilth ").rstrip(".")


def in_pages() -> Iterator[tuple[str, str]]:
    for name in PAGES:
        fenced = False
        for number, line in enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), 1):
            fenced ^= line.startswith("```")
            found = QUOTED.findall(line) + (re.findall(r"^(?:.*-m )?tilth (.*)$", line) if fenced else [])
            yield from ((f"{name}:{number}", re.split(r"\s#|&&|\|", command)[0]) for command in found)


def fault(command: str) -> str | None:
    """What of a command there is not."""
    here: Any = typer.main.get_command(app)
    words = [word.strip("'\":,;()") for word in command.split()]
    while words and (verbs := getattr(here, "commands", None)) and not words[0].startswith("-"):
        if words[0] == "…":
            return None
        if words[0] not in verbs:
            return f"there is no verb '{words[0]}'"
        here = verbs[words.pop(0)]
    options = {name for p in here.params for name in (*p.opts, *p.secondary_opts)} | {"--help"}
    for word in words:
        if word.startswith("--") and word.partition("=")[0] not in options:
            return f"there is no option {word}"
        if re.fullmatch(r"recipes/[\w/]+\.yaml", word) and not (ROOT / word).is_file():
            return f"there is no file {word}"
    return None


@pytest.mark.parametrize("found", [in_code, in_pages])
def test_every_command_that_is_advised_exists(found: Any) -> None:
    commands = list(found())
    assert len(commands) > 20
    wrong = [f"{place}: tilth {command}: {why}" for place, command in commands if (why := fault(command))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("command", "says"),
    [("runn my.yaml", "verb"), ("data fly", "verb"), ("run --fast x", "option"), ("run recipes/none.yaml", "file")],
)
def test_the_check_can_fail(command: str, says: str) -> None:
    assert says in (fault(command) or "")
    assert fault("data run recipes/data/first.yaml --engine ray") is None
