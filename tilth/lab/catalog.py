"""What there is: every technique with its card, its knobs and its evidence, read from source files alone.

Nothing here imports a technique or torch: cards are literals, knobs are read from the syntax tree, evidence is JSON.
"""

from __future__ import annotations

import ast
import json
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tilth.core import plugins
from tilth.core.areas import AREAS
from tilth.core.errors import RecipeError, nearest
from tilth.core.shipped import PACKAGE, shipped
from tilth.core.technique import card, file_of, names, unreadable

TESTED = ("optim", "schedule", "objective", "weights", "attention", "feedforward", "embedding", "position", "precision")
"""Areas whose techniques claim something a comparison can show; each technique there has evidence or an exemption."""


@dataclass(frozen=True)
class Knob:
    """One field of a technique's configuration, as its file says it."""

    name: str
    type: str
    default: str | None
    """Source text; None if the field is required."""
    doc: str


@dataclass(frozen=True)
class Entry:
    """One technique as `tilth list` shows it."""

    id: str
    title: str
    claim: str
    paper: str
    paper_number: str | None
    baseline: str | None
    needs: list[str]
    excludes: list[str]
    exempt: dict[str, str] | None
    verdict: str | None
    ours: str | None
    """The measured effect with its interval, in words; None without evidence."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def split(identity: str) -> tuple[str, str]:
    """ "optim.muon" -> ("optim", "muon"). Raises RecipeError naming the nearest technique or area."""
    area, _, name = identity.partition(".")
    if area not in AREAS or not name:
        if identity in AREAS:
            raise RecipeError(f"'{identity}' is an area.", fix=f"`tilth list {identity}` names its techniques.")
        known = [i for i in ids() if i.endswith(f".{identity}")] or nearest(area, AREAS)
        fix = f"Did you mean '{known[0]}'?" if isinstance(known, list) else known
        raise RecipeError(f"'{identity}' is no technique; write area.name, such as optim.muon.", fix=fix)
    if isinstance(unusable := plugins.find(identity), plugins.Broken) and name not in names(area):
        raise RecipeError(f"{unusable}.")
    if name not in names(area):
        fix = nearest(name, names(area)).replace("'", f"'{area}.", 1) if names(area) else ""
        raise RecipeError(f"there is no technique '{identity}'.", fix=fix)
    return area, name


def ids(areas: Iterable[str] | None = None) -> Iterator[str]:
    """Every technique of these areas (all, if none is named), in the order of the areas."""
    for area in AREAS if areas is None else areas:
        if area not in AREAS:
            told = f"`tilth show {area}` tells of one technique. " if "." in area else ""
            raise RecipeError(f"there is no area '{area}'.", fix=f"{told}Areas: {', '.join(AREAS)}.")
        yield from (f"{area}.{name}" for name in names(area))


def path_of(identity: str) -> Path:
    """The file of a technique; it does not exist for one that there is not."""
    area, _, name = identity.partition(".")
    return file_of(area, name)


def evidence_root() -> Path:
    """Where the evidence of tilth's own techniques lies."""
    return shipped("evidence")


def evidence_path(identity: str) -> Path:
    """`evidence/<area>/<name>.json`: what tilth ships of its own techniques, beside where one stands of others."""
    area, _, name = identity.partition(".")
    root = evidence_root() if path_of(identity).is_relative_to(PACKAGE) else Path("evidence")
    return root / area / f"{name}.json"


def entry(identity: str) -> Entry:
    """One technique, with its verdict if it has evidence."""
    found = card(*identity.split(".", 1))
    try:
        evidence = json.loads(evidence_path(identity).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        evidence = {}
    return Entry(
        id=identity,
        title=str(found.get("title", "")),
        claim=str(found.get("claim", "")),
        paper=str(found.get("paper") or ""),
        paper_number=found.get("paper_number"),
        baseline=found.get("baseline"),
        needs=list(found.get("needs") or []) if isinstance(found.get("needs"), list) else [],
        excludes=list(found.get("excludes") or []) if isinstance(found.get("excludes"), list) else [],
        exempt=found.get("exempt") or None,
        verdict=evidence.get("verdict"),
        ours=tell_effect(evidence),
    )


def entries(area: str | None = None) -> list[Entry]:
    """All techniques, or those of one area, but for those that cannot be read."""
    gone = {b.identity for b in unreadable()}
    return [entry(i) for i in ids(None if area is None else [area]) if i not in gone]


def tell_effect(evidence: dict[str, Any]) -> str | None:
    """The measured effect in words: "−0.031 bits per byte [−0.040, −0.022], n = 3"."""
    effect = evidence.get("effect")
    if not effect:
        return None
    unit = effect.get("unit", "")
    interval = ""
    if effect.get("low") is not None and effect.get("high") is not None:
        interval = f" [{_number(effect['low'])}, {_number(effect['high'])}]"
    share = f" ({100 * effect['relative']:+.1f} %)" if effect.get("relative") is not None else ""
    return f"{_number(effect['value'])} {unit}{share}{interval}, n = {len(evidence.get('seeds', []))}".replace("-", "−")


def _number(value: float) -> str:
    return f"{value:+.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:+.3g}"


def knobs(identity: str) -> list[Knob]:
    """The fields of a technique's `Config`, those it inherits from its folder's shared classes included."""
    path = path_of(identity)
    return list(_fields(path, "Config", set()).values()) if path.is_file() else []


def _fields(path: Path, name: str, seen: set[tuple[Path, str]]) -> dict[str, Knob]:
    """Fields of class `name` of a file: those of its base classes, in this file or one it imports, then its own."""
    if (path, name) in seen or not path.is_file():
        return {}
    seen.add((path, name))
    tree = ast.parse(path.read_text(encoding="utf-8"))
    node = next((n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name), None)
    out: dict[str, Knob] = {}
    if node is None:
        return out
    for base in node.bases:
        if isinstance(base, ast.Name):
            out |= _fields(*_origin(tree, path, base.id), seen)
        elif isinstance(base, ast.Attribute) and isinstance(base.value, ast.Name):
            module, _ = _origin(tree, path, base.value.id)
            out |= _fields(module.parent / f"{base.value.id}.py", base.attr, seen)
    for this, after in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(this, ast.AnnAssign) and isinstance(this.target, ast.Name):
            kind = ast.unparse(this.annotation)
            if not kind.startswith("ClassVar"):
                out[this.target.id] = Knob(this.target.id, kind, _default(this.value), _doc(after))
    return out


def _origin(tree: ast.Module, path: Path, name: str) -> tuple[Path, str]:
    """File and name a name stands for: what an import of tilth's own brought, else this file."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    folder = path.parents[node.level - 1] if node.level else PACKAGE.parent
                    module = folder.joinpath(*(node.module or "").split("."))
                    file = module.with_suffix(".py") if node.module else folder / f"{alias.name}.py"
                    own = file.is_relative_to(PACKAGE) and file != PACKAGE / "core" / "config.py"
                    return (file, alias.name) if own else (Path(), "")
    return path, name


def _default(value: ast.expr | None) -> str | None:
    if isinstance(value, ast.Call) and ast.unparse(value.func).endswith("Field"):
        named = {k.arg: k.value for k in value.keywords}
        given = value.args[0] if value.args else named.get("default", named.get("default_factory"))
        return None if given is None or ast.unparse(given) in ("...", "Ellipsis") else ast.unparse(given)
    return None if value is None else ast.unparse(value)


def _doc(node: ast.stmt | None) -> str:
    match node:
        case ast.Expr(value=ast.Constant(value=str(told))):
            return " ".join(told.split())
    return ""


def docstring(identity: str) -> str:
    """What a technique's file says at its top."""
    path = path_of(identity)
    if not path.is_file():
        return ""
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def show(identity: str) -> dict[str, Any]:
    """All that is known of one technique, as plain data."""
    split(identity)
    if unusable := next((b for b in unreadable() if b.identity == identity), None):
        raise RecipeError(f"{unusable}.")
    kept = evidence_path(identity)
    return {
        **entry(identity).as_dict(),
        "card": card(*split(identity)),
        "about": docstring(identity),
        "knobs": [asdict(k) for k in knobs(identity)],
        "evidence": json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else None,
        "file": str(path_of(identity)),
    }


def tell(shown: dict[str, Any]) -> list[str]:
    """Lines of `tilth show`."""
    found, evidence = shown["card"], shown["evidence"]
    lines = [f"{shown['id']}: {shown['title']}", f"  {shown['paper']}", "", *shown["about"].splitlines(), ""]
    lines += ["knobs"]
    for knob in shown["knobs"]:
        default = "required" if knob["default"] is None else knob["default"]
        lines.append(f"  {knob['name']} = {default}")
        lines += textwrap.wrap(knob["doc"], 112, initial_indent="      ", subsequent_indent="      ")
    if not shown["knobs"]:
        lines.append("  none")
    lines += ["", "claim and evidence", f"  claims     {shown['claim']}"]
    if shown["paper_number"]:
        lines.append(f"  the paper  {shown['paper_number']}")
    if evidence is None:
        why = (shown["exempt"] or {}).get("evidence")
        lines.append(f"  ours       none: {why}" if why else f"  ours       none yet: tilth check {shown['id']}")
    else:
        lines.append(f"  ours       {shown['ours'] or 'no number'}: {evidence['verdict']}")
        lines.append(f"  setting    {evidence['setting']['text']}")
        lines.append(f"  again      {evidence['command']}")
    for key, what in (("check", "checked"), ("sharded", "sharded")):
        if found.get(key):
            lines.append(f"  {what:<10} {found[key]}")
    for key in ("needs", "excludes"):
        if shown[key]:
            lines.append(f"  {key:<10} {', '.join(shown[key])}")
    for what, why in (shown["exempt"] or {}).items():
        lines.append(f"  exempt     {what}: {why}")
    return lines


def table(found: list[Entry]) -> list[str]:
    """Lines of `tilth list`."""
    wide = max((len(e.id) for e in found), default=0)
    lines = []
    for e in found:
        exempt = f"  (exempt: {', '.join(e.exempt)})" if e.exempt else ""
        verdict = e.verdict or ("no claim of its own" if e.exempt and "evidence" in e.exempt else "–")
        lines.append(f"{e.id:<{wide}}  {verdict:<14}  {textwrap.shorten(e.claim, 90, placeholder=' …')}{exempt}")
    judged = sum(e.verdict is not None for e in found)
    return [*lines, f"{len(found)} techniques, {judged} with evidence; `tilth show <id>` says more."]
