"""Every page does what it says: its commands run in their order in a copy of the checkout, and the tables of codes and
variables are those of the source."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tilth.core import errors
from tilth.core.recipe import load

from ..warm import Warm

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"(?:<!-- not run: (?P<why>.+?) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.M | re.S)
PAGES = {
    "continue.md": ["holds  resume", "runs/more/export", "best by bits_per_byte"],
    "adapt.md": ["runs/base: 166,208 parameters", "logits equal those of transformers"],
    "sweep.md": ["differs in: optim.lr 0.02 (0.005)", "lr 0.08", "tuned: optim.lr", "['lr 0."],
    "evaluate.md": ["questions.jsonl  acc", "mine", "lm-eval's", "best by multiple_choice.acc_norm"],
    "trackers.md": ["events.out.tfevents"],
    "tokens.md": ["web:web:", " web.bin ", "imported: "],
    "budget.md": ["leave", "own  ", "01-gopher_repetition: keep"],
}
"""Page -> what its commands must have said."""
SMALLER = {
    "recipes/first.yaml": {
        "layers: 4, width: 256, heads: 4, ffn_width: 704": "layers: 2, width: 64, heads: 2, ffn_width: 128",
        "vocab_size: 4096": "vocab_size: 512",
        "{tokens: 4096, sequence: 256}": "{tokens: 1024, sequence: 64}",
    },
    "README.md": {
        "--arms optim=adamw,muon,conda": "--arms optim=adamw,muon",
        "--seeds 5 --budget 2e6tok": "--seeds 1 --budget 2048tok",
        "optim.lr=0.0005,0.001,0.002,0.004,0.01,0.02": "optim.lr=0.001,0.01",
    },
}
"""What makes the README's own commands a matter of a minute or two: file -> text -> text in its place."""
NEEDS = {"adapt.md": "transformers", "evaluate.md": "lm_eval", "trackers.md": "tensorboard"}


class Block(NamedTuple):
    """A fenced piece of a page."""

    language: str
    text: str
    why: str | None
    """Why it is not run."""


def blocks(page: Path) -> list[Block]:
    found = [Block(m["language"], m["text"], m["why"]) for m in BLOCK.finditer(page.read_text(encoding="utf-8"))]
    assert all(b.language in ("sh", "python", "yaml") for b in found)
    return found


def script(found: list[Block]) -> str:
    """The blocks as one script: commands, Python, and recipes, whose first line names their file."""
    out = ["set -euo pipefail"]
    for block in (b for b in found if b.why is None):
        if block.language == "sh":
            out.append(block.text)
        elif block.language == "python":
            out.append(f"python - <<'END_OF_BLOCK'\n{block.text}END_OF_BLOCK")
        else:
            name = re.match(r"# ([\w-]+\.yaml)\n", block.text)
            assert name, f"a recipe without the name of its file: {block.text[:60]}"
            out.append(f"cat > {name[1]} <<'END_OF_BLOCK'\n{block.text}END_OF_BLOCK")
    return "\n".join(out)


def checkout(folder: Path) -> dict[str, str]:
    """A copy of what pages read; the environment in which its `tilth` is the one that is imported."""
    for name in ("docs", "evidence", "recipes", "tilth"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests" / "optim", folder / "tests" / "optim")  # what `tilth new` copies from
    shutil.copy(ROOT / "pyproject.toml", folder)
    tools = folder / ".tools"
    tools.mkdir()
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tools / "hf")}


class Checkout(NamedTuple):
    """A copy in which commands run as forks of one interpreter."""

    folder: Path
    environment: dict[str, str]

    def said(self, found: list[Block], cached: bool = True) -> str:
        """Standard output of the blocks, run in their order; `cached`: with what is in caches. All else they
        made is gone afterwards."""
        before = set(self.folder.rglob("*"))
        if not cached:
            shutil.rmtree(self.folder / "runs", ignore_errors=True)
        done = subprocess.run(
            ["bash", "-c", script(found)],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        for path in sorted(set(self.folder.rglob("*")) - before):
            if path.exists() and ".cache" not in path.parts and path.name != "runs":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return done.stdout


@contextlib.contextmanager
def warm(folder: Path) -> Iterator[Checkout]:
    environment, tools = checkout(folder), folder / ".tools"
    with Warm(tools, environment) as interpreter:
        python, ranks = shlex.join(interpreter.command), f'"{sys.executable}" -m torch.distributed.run'
        for name, command in (("python", python), ("tilth", f"{python} -m tilth"), ("torchrun", ranks)):
            (tools / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
            (tools / name).chmod(0o755)
        yield Checkout(folder, environment)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    with warm(tmp_path_factory.mktemp("clone")) as made:
        yield made


WRITTEN = Block("sh", "test -f tilth/optim/my_rule.py && echo optim/my_rule.py is there\n", None)


def test_every_page_with_commands_is_run() -> None:
    pages = {p.name for p in (ROOT / "docs").glob("*.md") if blocks_of(p)}
    assert pages - {"architecture.md", "data.md", "optimizers.md", "techniques.md"} == set(PAGES)


def blocks_of(page: Path) -> list[str]:
    return re.findall(r"^```(?:sh|python|yaml)$", page.read_text(encoding="utf-8"), re.M)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", sorted(PAGES))
def test_a_pages_commands_run_in_their_order(page: str, clone: Checkout) -> None:
    if (needs := NEEDS.get(page)) and importlib.util.find_spec(needs) is None:
        pytest.skip(f"{needs} is not installed")
    found = blocks(ROOT / "docs" / page)
    assert found and all(len(b.why or "a reason") > 5 for b in found)
    out = clone.said(found, cached="runs/.cache" not in script(found))
    for said in PAGES[page]:
        assert said in out, said


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_commands_of_the_readme_run_in_their_order(tmp_path: Path) -> None:
    with warm(tmp_path) as clone:
        shutil.copy(ROOT / "README.md", tmp_path / "README.md")
        for name, changes in SMALLER.items():
            text = (tmp_path / name).read_text(encoding="utf-8")
            for old, new in changes.items():
                assert old in text, old
                text = text.replace(old, new)
            (tmp_path / name).write_text(text, encoding="utf-8")
        (tmp_path / "my" / "folder").mkdir(parents=True)
        for path in (tmp_path / "tilth" / "core").glob("*.py"):
            shutil.copy(path, tmp_path / "my" / "folder")
        found = blocks(tmp_path / "README.md")
        assert sum(b.why is None for b in found) >= 5 and all(len(b.why or "a reason") > 5 for b in found)
        out = clone.said([*found, WRITTEN])
    for said in ("holds  resume", "trained already", "stands in for check.yaml", "muon differs in: optim.use muon"):
        assert said in out, said
    assert "optim/my_rule.py is there" in out
    assert not (ROOT / "tilth" / "optim" / "my_rule.py").exists()


def test_recipes_of_trackers_are_recipes(tmp_path: Path) -> None:
    """Also those whose packages are not here."""
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    (tmp_path / "tilth").mkdir()
    (recipe,) = [b.text for b in blocks(ROOT / "docs" / "trackers.md") if "wandb" in b.text and b.language == "yaml"]
    (tmp_path / "others.yaml").write_text(recipe)
    assert len(load(tmp_path / "others.yaml").recipe.hooks) == 3


def test_links_of_pages_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_exit_codes_are_those_of_the_source() -> None:
    told = dict(re.findall(r"^\| (\d+) \| (.+) \|$", (ROOT / "docs" / "reference.md").read_text(), re.M))
    kinds = [(k, str(k.exit_code)) for k in [errors.TilthError, *below(errors.TilthError)]]
    named = [any(f"`{base.__name__}`" in told.get(code, "") for base in k.__mro__) for k, code in kinds]
    assert [k.__name__ for (k, _), known in zip(kinds, named, strict=True) if not known] == []
    others = re.findall(r"(?:Exit\(|\"exit_code\": )(\d+)", (ROOT / "tilth" / "command.py").read_text())
    assert {"130", "141"} <= set(others)
    assert set(told) == {"0", *(code for _, code in kinds), *others}


def below(kind: type) -> list[type]:
    """All classes that inherit from one."""
    return [c for sub in kind.__subclasses__() for c in (sub, *below(sub))]


def test_environment_variables_are_those_of_the_source() -> None:
    told = (ROOT / "docs" / "reference.md").read_text()
    used = set()
    for path in (ROOT / "tilth").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                used |= set(re.findall(r"\bTILTH_[A-Z_]+", node.value))
    assert used == set(re.findall(r"\bTILTH_[A-Z_]+", told))
