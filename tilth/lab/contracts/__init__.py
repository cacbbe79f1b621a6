"""The contracts every technique is held to, found by name; `tilth check` and tests/contracts run the same functions.

A case that does not hold raises AssertionError with a sentence. A card exempts its technique from a case by name, with
a reason: `"exempt": {"contract:halves": "scales are taken over the whole micro-batch"}`, `{"knob:eps": "…"}`.

A technique may steer its contracts with module-level dictionaries:

SMALL   fields to set on the contract's tiny model, where the defaults do not fit it: {"rank": 4, "every": 2}
KNOBS   field -> another value, where the usual move (0.7 times, one more, the other word) does not suit; a dictionary
        that holds the field itself sets several fields, the others of them in both arms: {"beta": {"beta": 0.5,
        "mode": "sum"}}
ACTS_ON field -> the machine on which alone it acts, {"bfloat16": False}; it is tried as on that one, whatever is here
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tilth.core.areas import AREAS
from tilth.core.clock import Clock
from tilth.core.errors import RecipeError
from tilth.core.step import Rate
from tilth.core.technique import card, config_class, resolve

from .fitting import is_elementwise, small

KEYS = ("title", "claim", "check")
"""What every card says; the rest is `tilth.core.technique.UNSAID`."""
LEARNING = ("optim", "objective", "weights", "attention", "feedforward", "embedding", "position", "precision")
"""Areas whose techniques are tried in a learner of their own."""
DOCUMENTS = ("signal", "curate", "extract")
"""Areas whose techniques are tried on a mixed bag of documents."""


@dataclass(frozen=True)
class Case:
    """One thing that must hold of one technique."""

    identity: str
    name: str
    """Such as "resume", or "knob:eps=1e-05"."""
    hold: Callable[[], None]

    @property
    def exempt(self) -> str | None:
        """The reason the card gives why this need not hold."""
        given = card(*self.identity.split(".", 1))["exempt"]
        key = self.name.partition("=")[0] if self.name.startswith("knob:") else f"contract:{self.name}"
        return given.get(key)


@dataclass(frozen=True)
class Result:
    """What became of a case."""

    name: str
    passed: bool
    seconds: float
    said: str = ""
    """Why it failed, or why it is exempt."""
    exempt: bool = False


def cases(identity: str) -> Iterator[Case]:
    """The cases of a technique. One that cannot be read at all has a single case that says why."""
    area = identity.partition(".")[0]
    yield Case(identity, "card", lambda: _card(identity))
    try:
        config_class(*identity.split(".", 1))
        yield Case(identity, "spelling", lambda: _spelling(identity))
        found: list[tuple[str, Callable[[], None]]] = []
        if area == "schedule":
            from . import schedules

            found = schedules.cases(identity)
        elif area in DOCUMENTS:
            from . import documents

            found = documents.cases(identity)
        elif area in LEARNING:
            from . import learning

            found = learning.cases(identity)
        if area in LEARNING or (area == "schedule" and _acts_on_batches(identity)):
            found.append(("processes", lambda: _processes(identity)))
        if area == "optim" and is_elementwise(identity):
            found.append(("sharded", lambda: _processes(identity, "hold_sharded")))
    except Exception as err:
        failure = f"{type(err).__name__}: {err}"

        def hold() -> None:
            raise AssertionError(f"{identity} cannot be tried: {failure}")

        yield Case(identity, "builds", hold)
        return
    for name, hold_it in found:
        yield Case(identity, name, hold_it)


def run(identity: str) -> Iterator[Result]:
    """Try every case of a technique; those the card exempts are named with their reason."""
    for case in cases(identity):
        if case.exempt:
            yield Result(case.name, True, 0.0, case.exempt, exempt=True)
            continue
        begin = time.perf_counter()
        try:
            case.hold()
            said = ""
        except Exception as err:  # whatever a technique under work does, its other contracts are still told
            said = str(err).strip() or type(err).__name__
        yield Result(case.name, not said, time.perf_counter() - begin, said)


def _acts_on_batches(identity: str) -> bool:
    spec: Any = resolve("schedule", small(identity))
    cuts = spec.length(Clock(0, 400), 64) != 64
    return cuts or bool(spec.sequences(400, 64)) or type(spec.start()) is not Rate


def _processes(identity: str, what: str = "hold") -> None:
    from . import processes

    getattr(processes, what)(identity)


def _card(identity: str) -> None:
    found = card(*identity.split(".", 1))
    lacks = [k for k in KEYS if k not in found]
    assert not lacks, f"the card lacks {', '.join(lacks)}"
    empty = [k for k in KEYS if not found[k]]
    assert not empty, f"write what it claims: {', '.join(empty)} of the card say nothing"
    exempt = found["exempt"]
    assert all(isinstance(why, str) and why for why in exempt.values()), "every exemption needs a reason"
    strange = [k for k in exempt if k.partition(":")[0] not in ("knob", "contract") and k not in ("evidence", "seeds")]
    assert not strange, f"exempt: {strange} is none of knob:…, contract:…, evidence, seeds"
    fields = config_class(*identity.split(".", 1)).model_fields
    gone = [k for k in exempt if k.startswith("knob:") and k[5:] not in fields]
    assert not gone, f"exempt: {gone} name no knob"
    if trial := found["trial"]:
        assert trial.get("expect") in ("lower", "no_worse"), "trial.expect is 'lower' or 'no_worse'"
        assert ("measure" in trial) != ("technique" in trial), "a trial has arms (technique, baseline) or a measure"
        assert trial["expect"] == "lower" or trial.get("margin") is not None, "no_worse needs a margin"


def _spelling(identity: str) -> None:
    area, name = identity.split(".", 1)
    cls = config_class(area, name)
    fields, given = cls.model_fields, small(identity)
    assert cls.model_config.get("extra") == "forbid", "Config must come from tilth.core.config.Config"
    if any(f.is_required() and n not in given for n, f in fields.items()):
        return  # the missing field would be reported, not the misspelt one
    try:
        resolve(area, given)
    except RecipeError:  # it wants one of several fields
        return
    for field in fields:
        wrong = field + field[-1]
        if wrong in fields:
            continue
        try:
            resolve(area, {**given, wrong: 1})
        except RecipeError as err:
            assert err.where == wrong, f"the misspelt {wrong} is reported at {err.where!r}"
            assert f"'{field}'" in err.fix, f"the misspelt {wrong} should suggest '{field}', not {err.fix!r}"
        else:
            raise AssertionError(f"the misspelt field {wrong} was accepted")


__all__ = ["AREAS", "KEYS", "Case", "Result", "cases", "run", "small"]
