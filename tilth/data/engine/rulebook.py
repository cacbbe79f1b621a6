"""Rules over signals: `measure op limit` says which documents go, and why, without looking at a text.

A measure is arithmetic over signal columns, a limit arithmetic over named thresholds and numbers:

    gopher_words < min_words
    gopher_bullets > max_bullets

Expressions are parsed into a small tree of known operations; nothing else in them is possible, and a name that is
neither a column nor a threshold is refused when the recipe is read.
"""

from __future__ import annotations

import ast
import functools
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from tilth.core.errors import RecipeError, nearest
from tilth.core.protocols import SignalSpec, Verdicts

_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: np.divide,
}
_COMPARE: dict[type, Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_CALLS: dict[str, Callable[..., Any]] = {
    "abs": np.abs,
    "log": np.log,
    "min": lambda *a: np.minimum.reduce(np.broadcast_arrays(*a)),
    "max": lambda *a: np.maximum.reduce(np.broadcast_arrays(*a)),
}

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Rule:
    """One reason to drop a document: where `when` is true of it."""

    reason: str
    when: str
    """A comparison `measure op limit`; several may be joined by `and`, the first then gives value and threshold."""

    def tree(self) -> ast.expr:
        """The parsed expression. Raises RecipeError at what is not of the little language."""
        return _parsed(self)[0]

    def names(self) -> frozenset[str]:
        """Names of the columns and thresholds it reads."""
        return _parsed(self)[1]


@functools.cache
def _parsed(rule: Rule) -> tuple[ast.expr, frozenset[str]]:
    """Expression and names of a rule, once: they are asked for with every batch."""
    try:
        tree = ast.parse(rule.when, mode="eval").body
    except SyntaxError as err:
        raise RecipeError(f"{rule.when!r} is no expression: {err.msg}.", where=rule.reason) from None
    for node in ast.walk(tree):
        _known(node, rule)
    if not (isinstance(tree, ast.Compare) or (isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And))):
        raise RecipeError(f"{rule.when!r} compares nothing.", where=rule.reason, fix="Write measure < limit.")
    called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    return tree, frozenset(n.id for n in ast.walk(tree) if isinstance(n, ast.Name)) - called


class Rulebook:
    """Rules in order; the first that holds of a document is its reason.

    rules       what drops a document
    thresholds  name -> number; None switches off the rules that read it
    needs       configurations of the signal techniques whose columns the rules read

    Raises RecipeError for a rule that reads what is neither a column of `needs` nor a threshold.
    """

    def __init__(
        self, rules: Iterable[Rule], thresholds: Mapping[str, float | int | None], needs: Iterable[SignalSpec]
    ) -> None:
        self.needs = tuple(needs)
        self.thresholds = dict(thresholds)
        columns = [name for config in self.needs for name in config.columns()]
        self.rules = []
        for rule in rules:
            for name in rule.names():
                if name not in columns and name not in self.thresholds:
                    raise RecipeError(
                        f"the rule '{rule.when}' reads '{name}', which is neither a signal here nor a threshold.",
                        where=rule.reason,
                        fix=nearest(name, [*columns, *self.thresholds]),
                    )
            if all(self.thresholds.get(n, 0) is not None for n in rule.names()):
                self.rules.append(rule)

    def judge(self, batch: pa.RecordBatch, signals: pa.RecordBatch) -> Verdicts:
        """Drop the documents of which a rule holds."""
        return self.verdicts(signals)

    def verdicts(self, signals: pa.RecordBatch) -> Verdicts:
        """`judge` from the signals alone."""
        n = signals.num_rows
        asked = {name for rule in self.rules for name in rule.names()} & set(signals.schema.names)
        values: dict[str, Any] = {name: numbers(signals.column(name)) for name in asked}
        absent = {name: missing(column) for name, column in values.items()}
        values |= {name: float(v) for name, v in self.thresholds.items() if v is not None}
        reason = np.zeros(n, dtype=np.int64)  # 0: kept, i + 1: rule i
        value, threshold = np.full(n, np.nan), np.full(n, np.nan)
        with np.errstate(all="ignore"):
            for i, rule in enumerate(self.rules):
                tree = rule.tree()
                try:
                    hit = np.broadcast_to(_evaluate(tree, values), n) & (reason == 0)
                except (TypeError, ValueError, IndexError) as err:
                    raise RecipeError(
                        f"the rule '{rule.when}' cannot be computed ({err}).",
                        where=rule.reason,
                        fix="Compare numbers with numbers, texts with texts; abs and log take one value.",
                    ) from None
                for name in rule.names() & asked:
                    hit = hit & ~absent[name]
                if hit.any():
                    first: Any = tree.values[0] if isinstance(tree, ast.BoolOp) else tree
                    reason[hit] = i + 1
                    value[hit] = np.broadcast_to(_evaluate(first.left, values), n)[hit]
                    limit = np.broadcast_to(_evaluate(first.comparators[0], values), n)
                    threshold[hit] = limit[hit]
        names = ["", *(rule.reason for rule in self.rules)]
        return Verdicts(reason == 0, [names[i] for i in reason.tolist()], value, threshold)


def missing(values: np.ndarray) -> np.ndarray:
    """bool [n]: where a signal has no value; no comparison holds there, whatever its operator."""
    return np.isnan(values) if values.dtype != object else np.array([v is None for v in values], dtype=bool)


def numbers(column: pa.Array) -> np.ndarray:
    """A signal column as float64 (null and not a number are NaN, which no comparison holds of), or as texts."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return np.array(column.to_pylist(), dtype=object)
    return column.cast(pa.float64()).to_numpy(zero_copy_only=False)


def _known(node: ast.AST, rule: Rule) -> None:
    ok = isinstance(
        node, (ast.Name, ast.Load, ast.Compare, ast.BinOp, ast.BoolOp, ast.UnaryOp, ast.USub, ast.operator, ast.cmpop)
    )
    ok = ok or isinstance(node, (ast.And, ast.Or, ast.boolop, ast.unaryop))
    ok = ok or (isinstance(node, ast.Constant) and isinstance(node.value, (int, float, str)))
    if isinstance(node, ast.Call):
        ok = isinstance(node.func, ast.Name) and node.func.id in _CALLS and not node.keywords
    if isinstance(node, ast.BinOp):
        ok = type(node.op) in _BINARY
    if isinstance(node, ast.Compare):
        ok = len(node.ops) == 1 and type(node.ops[0]) in _COMPARE
    if not ok:
        raise RecipeError(
            f"{rule.when!r} holds what a rule cannot ({type(node).__name__}).",
            where=rule.reason,
            fix=f"Write names, numbers, + - * /, comparisons, and, or, not, {', '.join(sorted(_CALLS))}.",
        )


def _evaluate(node: ast.AST, values: Values) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return values[node.id]
    if isinstance(node, ast.BinOp):
        return _BINARY[type(node.op)](_evaluate(node.left, values), _evaluate(node.right, values))
    if isinstance(node, ast.UnaryOp):
        inner = _evaluate(node.operand, values)
        return np.logical_not(inner) if isinstance(node.op, ast.Not) else -inner
    if isinstance(node, ast.BoolOp):
        both = [np.asarray(_evaluate(v, values), dtype=bool) for v in node.values]
        return np.logical_and.reduce(both) if isinstance(node.op, ast.And) else np.logical_or.reduce(both)
    if isinstance(node, ast.Compare):
        return _COMPARE[type(node.ops[0])](_evaluate(node.left, values), _evaluate(node.comparators[0], values))
    assert isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    return _CALLS[node.func.id](*(_evaluate(a, values) for a in node.args))


def limit_of(rule: Rule, thresholds: Mapping[str, float | int | None]) -> tuple[str, str, float] | None:
    """(column, operator, limit) of a rule whose first comparison holds one column against a number; None for others."""
    tree = rule.tree()
    first = tree.values[0] if isinstance(tree, ast.BoolOp) else tree
    if not isinstance(first, ast.Compare) or not isinstance(first.left, ast.Name) or first.left.id in thresholds:
        return None
    limits = {name: float(v) for name, v in thresholds.items() if v is not None}
    try:
        limit = float(_evaluate(first.comparators[0], limits))
    except (KeyError, TypeError, ValueError):  # a limit that reads another column, or a text
        return None
    return first.left.id, _SIGNS[type(first.ops[0])], limit


_SIGNS = {ast.Lt: "<", ast.LtE: "≤", ast.Gt: ">", ast.GtE: "≥", ast.Eq: "=", ast.NotEq: "≠"}
