"""Evidence: what was measured of a technique, kept as `evidence/<area>/<name>.json`, and whether it is still current.

A record holds everything its sentence rests on: setting, arms, seeds, the value of every run, versions, cost, and the
command that makes it again. It belongs to the code it measured: `source_hash` covers the technique's file without its
docstrings, comments, types and card, and the card's trial; what steers its tests (SMALL, KNOBS) is no part of it. Only
a full check writes one.
"""

from __future__ import annotations

import ast
import datetime
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, model_validator

from tilth.core.config import Config, validate
from tilth.core.errors import DataError, RecipeError
from tilth.core.hashing import content_hash
from tilth.core.rundir import read_json, write_json
from tilth.core.technique import card

from .catalog import TESTED, evidence_path, ids, path_of

Verdict = Literal["holds", "holds weakly", "not seen", "opposite", "needs a GPU"]
VERDICTS: tuple[str, ...] = get_args(Verdict)
FEW = 3
"""Seeds below which a record must say why they are enough."""
UNMEASURED = ("CARD", "SMALL", "KNOBS")
"""Assignments at the top of a technique's file that are not measured: they describe it and steer its tests."""


class Setting(Config):
    """Where it was measured."""

    text: str
    """In words: model, tokens, text."""
    recipe: str | None = None
    """The recipe file; None where the technique's own `trial` measures."""
    recipe_hash: str | None = None
    """Content hash of the baseline's resolved recipe."""
    parameters: int | None = None
    tokens: int | None = None
    data: str | None = None
    """Key of the documents' content."""


class ArmRecord(Config):
    """One way of training, with the dotted overrides that make it from the recipe."""

    name: str
    overrides: list[str] = []
    values: list[float | None]
    """Per seed; None where the run diverged."""
    per_domain: dict[str, list[float | None]] = {}
    """Domain -> value per seed."""
    cpu_seconds: float = Field(0.0, ge=0)
    peak_memory_bytes: int | None = None
    state_bytes: int | None = None
    """Optimizer state, measured."""
    state_bytes_estimate: int | None = None
    """Optimizer state by the method's formula."""


class Tried(Config):
    """One value of a tuning grid."""

    arm: str
    overrides: list[str]
    value: float | None
    """None: it diverged."""


class EffectRecord(Config):
    """Technique minus baseline, lower is better, paired by seed; the interval is at 95 % (Student's t)."""

    unit: str
    value: float
    low: float | None = None
    high: float | None = None
    relative: float | None = None
    """Of the baseline's mean."""
    differences: list[float]


class Evidence(Config):
    """One technique's evidence."""

    technique: str
    claim: str
    paper_number: str | None = None
    measure: str
    expect: Literal["lower", "no_worse"]
    margin: float | str | None = None
    setting: Setting
    arms: list[ArmRecord]
    """The technique first, then the baseline."""
    tuning: list[Tried] = []
    tuning_seed: int | None = None
    seeds: list[int]
    effect: EffectRecord | None
    verdict: Verdict
    exempt: str | None = None
    """Why fewer than three seeds are enough, or why nothing was run."""
    versions: dict[str, str]
    source_hash: str
    cost_cpu_seconds: float = Field(ge=0)
    command: str
    date: str
    short: Literal[False] = False

    @model_validator(mode="after")
    def _whole(self) -> Evidence:
        if len(self.seeds) < FEW and not self.exempt:
            raise ValueError(f"{len(self.seeds)} seeds need a reason in `exempt`")
        if any(len(arm.values) != len(self.seeds) for arm in self.arms):
            raise ValueError("each arm has one value per seed")
        if self.verdict != "needs a GPU" and not self.arms:
            raise ValueError(f"the verdict '{self.verdict}' needs runs")
        return self


def source_hash(identity: str) -> str:
    """Hash of what was measured: the technique's code and that of its folder's modules it imports, without docstrings,
    comments, types, cards and test fields, and the trial."""
    path = path_of(identity)
    trial = card(*identity.split(".", 1)).get("trial")
    return content_hash([[_code(p) for p in _with_imports(path)] if path.is_file() else [], trial])


def _with_imports(path: Path) -> list[Path]:
    """A file and the modules of its folder it imports (`from .groups import …`), and theirs, in order of name."""
    found, todo = {path}, [path]
    while todo:
        for node in ast.walk(ast.parse(todo.pop().read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
                other = path.with_name(f"{node.module.partition('.')[0]}.py")
                if other.is_file() and other not in found:
                    found.add(other)
                    todo.append(other)
    return sorted(found)


class _Measured(ast.NodeTransformer):
    """A module's tree without what changes nothing that is measured: docstrings, types, cards and test fields."""

    def visit(self, node: ast.AST) -> Any:
        match node:
            case ast.Expr(value=ast.Constant(value=str())) | ast.If(test=ast.Name(id="TYPE_CHECKING")):
                return None
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)) if (
                name in UNMEASURED and node.col_offset == 0
            ):
                return None
            case ast.Call(func=ast.Name(id="cast"), args=[_, value]):
                return self.visit(value)
        return self.generic_visit(node)


_TYPES = {"annotation", "returns", "type_comment", "type_params", "ctx", "kind"}
"""Fields of syntax that name types, or repeat what stands elsewhere."""


def _code(path: Path) -> Any:
    """What a file does, as plain data that is the same for every Python: its syntax without what is not measured and
    without imports of names that only types used."""
    tree = _Measured().visit(ast.parse(path.read_text(encoding="utf-8")))
    used: set[str] = set()

    def plain(node: Any) -> Any:
        if isinstance(node, list):
            return [plain(each) for each in node]
        if not isinstance(node, ast.AST):
            return node if isinstance(node, str | int | bool | float | None) else repr(node)
        if isinstance(node, ast.Name):
            used.add(node.id)
        name = "Assign" if isinstance(node, ast.AnnAssign) else type(node).__name__
        fields = {
            ("target" if k == "targets" else k): v for k, v in ast.iter_fields(node) if k not in _TYPES and v != []
        }
        fields.pop("simple", None)
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            fields["target"] = node.targets[0]
        return [name, {k: plain(v) for k, v in fields.items() if v is not None}]

    body = plain([n for n in tree.body if not isinstance(n, ast.Import | ast.ImportFrom)])
    imports = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    kept = [
        [getattr(n, "module", None), getattr(n, "level", 0), alias.name, alias.asname]
        for n in imports
        for alias in n.names
        if (alias.asname or alias.name).partition(".")[0] in used
    ]
    return [sorted(kept, key=repr), body]


def read(path: Path) -> Evidence:
    """A record. Raises DataError naming the file and what is wrong with it."""
    try:
        return validate(Evidence, read_json(path))
    except RecipeError as err:
        raise DataError(err.what, where=f"{path}: {err.where}", fix="Run `tilth check` again.") from None


def write(record: Evidence) -> Path:
    """Keep a record in its place."""
    path = evidence_path(record.technique)
    write_json(path, record.model_dump(mode="json"))
    return path


def today() -> str:
    """The date of a record."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


@dataclass(frozen=True)
class State:
    """Whether a technique's evidence can be relied on."""

    identity: str
    state: Literal["current", "stale", "missing", "damaged", "exempt"]
    said: str = ""


def state(identity: str) -> State:
    """Whether there is evidence of this technique's code as it stands."""
    path = evidence_path(identity)
    if not path.is_file():
        why = (card(*identity.split(".", 1)).get("exempt") or {}).get("evidence")
        return State(identity, "exempt", why) if why else State(identity, "missing", f"run: tilth check {identity}")
    try:
        found = read(path)
    except DataError as err:
        return State(identity, "damaged", str(err))
    if found.technique != identity:
        return State(identity, "damaged", f"{path} is of {found.technique}")
    if found.source_hash != source_hash(identity):
        return State(identity, "stale", f"the code has changed since; run: tilth check {identity}")
    return State(identity, "current", found.verdict)


def states(areas: Iterable[str] = TESTED) -> list[State]:
    """The state of every technique that should have evidence."""
    return [state(i) for i in ids(areas)]


def strays() -> list[Path]:
    """Evidence files in the tested areas that are of no technique."""
    known = {evidence_path(i) for i in ids(TESTED)}
    return [p for folder in sorted({k.parent for k in known}) for p in sorted(folder.glob("*.json")) if p not in known]


__all__ = ["Evidence", "State", "read", "source_hash", "state", "states", "strays", "write"]


def dump(record: Evidence) -> dict[str, Any]:
    """Plain data of a record."""
    return record.model_dump(mode="json")
