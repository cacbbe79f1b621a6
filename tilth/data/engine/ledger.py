"""The books of a data run: what became of every document, and how that is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from tilth.core.errors import DataError
from tilth.core.rundir import Count, read_json
from tilth.core.text import visible
from tilth.data.across.files import sound
from tilth.data.across.tasks import DataTask
from tilth.data.document import beside

from . import intake, steps
from .passes import Pass
from .plan import DataPlan
from .recipe import DataRecipe

Book = TypedDict(
    "Book",
    {
        "in": Count,
        "bytes": Count,
        "kept": Count,
        "kept_bytes": Count,
        "dropped": dict[str, Count],
        "quarantined": dict[str, Count],
        "edited": dict[str, Count],
        "warnings": dict[str, Count],
        "passed_over": dict[str, Count],
    },
)
"""What became of the documents of one source: in = kept + dropped + quarantined; see `document.Account`."""


class Tier(TypedDict):
    """What there is of a tier."""

    documents: Count
    bytes: Count


_Counts = TypedDict(
    "_Counts",
    {
        "in": Count,
        "out": Count,
        "bytes_in": Count,
        "bytes_out": Count,
        "dropped": dict[str, Count],
        "quarantined": dict[str, Count],
        "edited": dict[str, Count],
    },
)
"""Of one source in one part of a pass."""


class EvalCounts(TypedDict):
    """What a run met of an evaluation set; see `tilth.data.text.evaluation.Met.to_dict`."""

    items: Count
    too_short: Count
    documents: Count
    touched: Count
    covered: dict[str, Count]


class Ledger(TypedDict):
    """`ledger.json`."""

    sources: dict[str, Book]
    tiers: dict[str, Tier]
    stayed_below: dict[str, dict[str, Count]]
    notices: dict[str, list[str]]
    accounts: dict[str, dict[str, EvalCounts]]


def _books(dir: Path, pass_: Pass) -> Iterator[dict[str, _Counts]]:
    """Of each part of a pass."""
    for counts in sorted((dir / f"pass-{pass_.name}").glob("*/counts.json")):
        yield read_json(sound(counts), dict[str, _Counts])


def came_to(number: int, dir: Path, plan: DataPlan, reading: list[DataTask]) -> tuple[int, int]:
    """Documents that come to a pass, and their bytes of text."""
    if number:
        rows = [(c["out"], c["bytes_out"]) for b in _books(dir, plan.passes[number - 1]) for c in b.values()]
    else:
        rows = [(account["documents"], account["bytes"]) for _, account in intake.accounts(reading)]
    return sum(n for n, _ in rows), sum(size for _, size in rows)


def build(recipe: DataRecipe, plan: DataPlan, dir: Path, reading: list[DataTask]) -> dict[str, Any]:
    """All books, and that they balance. Raises DataError if they do not."""
    sources: dict[str, dict[str, Any]] = {}
    for name, account in intake.accounts(reading):
        book = sources.setdefault(name, {"in": 0, "bytes": 0, "kept": 0, "kept_bytes": 0, "dropped": {}})
        book.setdefault("quarantined", {}), book.setdefault("edited", {})
        book["in"] += account["in"]
        book["bytes"] += account["bytes"]
        _add(book["dropped"], {f"intake: {k}": v for k, v in account["dropped"].items()})
        _add(book["quarantined"], account["quarantined"])
        for what in ("warnings", "passed_over"):
            _add(book.setdefault(what, {}), account[what])
    tiers = {tier: {"documents": 0, "bytes": 0} for tier in ("L1", *sorted(recipe.promote))}
    stayed: dict[str, dict[str, int]] = {tier: {} for tier in recipe.promote}
    for number, pass_ in enumerate(plan.passes):
        last = plan.last_of(pass_.tier) == number
        for books in _books(dir, pass_):
            for name, count in books.items():
                book = sources[name]
                _add(book["edited"], count["edited"])
                if pass_.tier == "L1":
                    _add(book["dropped"], count["dropped"])
                    _add(book["quarantined"], count["quarantined"])
                else:
                    _add(stayed[pass_.tier], count["dropped"])
                    _add(stayed[pass_.tier], count["quarantined"])
                if last:
                    tiers[pass_.tier]["documents"] += count["out"]
                    tiers[pass_.tier]["bytes"] += count["bytes_out"]
                    if pass_.tier == "L1":
                        book["kept"] += count["out"]
                        book["kept_bytes"] += count["bytes_out"]
    for name, book in sources.items():
        out = book["kept"] + sum(book["dropped"].values()) + sum(book["quarantined"].values())
        if book["in"] != out:
            raise DataError(f"{book['in']} documents came in, {out} are accounted for.", where=f"sources.{name}")
    notices: dict[str, list[str]] = {}
    for label, notice in plan.notices(recipe):
        notices.setdefault(label, []).append(notice)
    accounts = {
        label: account for _, label, config in recipe.labelled() if (account := steps.account(config.build(), dir))
    }
    return {
        "sources": sources,
        "tiers": tiers,
        "stayed_below": stayed,
        "notices": notices,
        "accounts": accounts,
    }


def _add(total: dict[str, int], more: dict[str, int]) -> None:
    for key, count in more.items():
        total[key] = total.get(key, 0) + count


def describe(ledger: dict[str, Any]) -> Iterator[str]:
    """Lines for a person: per source, what became of its documents; per tier, what there is."""
    for name, book in ledger["sources"].items():
        yield (
            f"{name}: {book['in']:,} in, {book['kept']:,} kept ({book['kept_bytes'] / 1e6:.1f} of "
            f"{book['bytes'] / 1e6:.1f} MB), {sum(book['dropped'].values()):,} dropped, "
            f"{sum(book['quarantined'].values()):,} quarantined"
        )
        for what in ("dropped", "quarantined"):
            for reason, count in sorted(book[what].items(), key=lambda kv: (-kv[1], kv[0]))[:12]:
                yield f"    {count:>10,}  {reason}" + (" (quarantined)" if what == "quarantined" else "")
        for label, count in book["edited"].items():
            yield f"    {count:>10,}  {label}: edited and kept"
        yield from (f"    {visible(clause)}" for clause in beside(book))
    for row in funnel(ledger):
        if row["came"] > 1 and row["gone"] > row["came"] / 2:
            yield f"{row['step']} takes most of what reaches it: {row['gone']:,} of {row['came']:,} documents"
    for tier, numbers in ledger["tiers"].items():
        yield f"{tier}: {numbers['documents']:,} documents, {numbers['bytes'] / 1e6:.1f} MB"


class NothingLeft(DataError):
    """A data run came to its end and left no documents; `run` is its directory, whose report says why."""

    def __init__(self, what: str, run: Path, fix: str) -> None:
        super().__init__(what, where=str(run), fix=fix)
        self.run = run


def refuse_nothing(ledger: dict[str, Any], recipe: DataRecipe, run: Path) -> None:
    """Raise NothingLeft if a finished run has no documents (of the tier that tokens are made of)."""
    tier = recipe.tokens.tier if recipe.tokens is not None else "L1"
    if ledger["tiers"][tier]["documents"]:
        return
    taken: Counter[tuple[str, str]] = Counter()
    came, what = ledger["tiers"]["L1"]["documents"], f"nothing is left for tokens of tier {tier}"
    for reasons in ledger["stayed_below"].values():
        taken.update({("kept below by", reason): n for reason, n in reasons.items()})
    if not came:
        came, what = sum(b["in"] for b in ledger["sources"].values()), "nothing is left"
        taken.clear()
        for book in ledger["sources"].values():
            taken.update({("dropped by", reason): n for reason, n in book["dropped"].items()})
            taken.update({("quarantined:", reason): n for reason, n in book["quarantined"].items()})
    if not came:
        raise NothingLeft(f"{what}: the sources hold no documents.", run, "Name other files.")
    shown = ", ".join(f"{n:,} {way} {visible(reason)}" for (way, reason), n in taken.most_common(5))
    more = f", and {len(taken) - 5:,} more reasons" if len(taken) > 5 else ""
    (way, reason), _ = taken.most_common(1)[0]
    label = reason.partition(": ")[0]
    by_step = way != "quarantined:" and label in {label for _, label, _ in recipe.labelled()}
    loosen = f"Loosen {label[3:]}" if by_step else "Name other files, or mend these"
    raise NothingLeft(
        f"{what}: of {came:,} documents, {shown}{more}.",
        run,
        f"{loosen}; `tilth data report {run}` shows the documents and the limits.",
    )


def funnel(ledger: dict[str, Any]) -> list[dict[str, Any]]:
    """A row per step that took documents, in order: those that came to it, and per reason those it took, with shares
    of all that was read."""
    books = ledger["sources"].values()
    total = sum(b["in"] for b in books)
    taken: dict[str, Counter[str]] = {}
    for book in books:
        for what, sign in (("dropped", ""), ("quarantined", " (quarantined)")):
            for reason, n in book[what].items():
                step, colon, why = reason.partition(": ")
                step, why = (step, why) if colon and what == "dropped" else ("quarantined", reason + sign)
                taken.setdefault(step, Counter())[why] += n
    left, rows = total, []
    for step in sorted(taken, key=lambda s: (s != "quarantined", s != "intake", s)):  # labels begin with their number
        reasons = taken[step]
        gone = reasons.total()
        rows.append(
            {
                "step": step,
                "came": left,
                "gone": gone,
                "left": left - gone,
                "share_left": (left - gone) / total if total else 0.0,
                "share_gone": gone / total if total else 0.0,
                "reasons": [(why, n, n / total if total else 0.0) for why, n in reasons.most_common(10)],
                "more": max(0, len(reasons) - 10),
            }
        )
        left -= gone
    return rows


def tell_funnel(ledger: dict[str, Any]) -> Iterator[str]:
    """The funnel as lines."""
    yield f"read: {sum(b['in'] for b in ledger['sources'].values()):,} documents"
    for row in funnel(ledger):
        why = "; ".join(f"{n:,} {visible(reason)}" for reason, n, _ in row["reasons"][:4])
        yield f"  {row['step']}: {row['gone']:,} of {row['came']:,} taken, {row['left']:,} left ({why})"
