"""Errors are sentences: what is wrong, where (full path), what would work. Each kind has its own exit code."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable
from typing import Any


class TilthError(Exception):
    """Base of every error a user can cause or mend.

    `what` is a sentence naming the fault, `where` the full path of the place (recipe field, file, line),
    `fix` a sentence saying what would work.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(" ".join(part for part in (f"{where}:" if where else "", what, fix) if part))

    def as_dict(self) -> dict[str, Any]:
        """The same error for `--json`."""
        return {
            "error": type(self).__name__,
            "where": self.where,
            "what": self.what,
            "fix": self.fix,
            "exit_code": self.exit_code,
        }


class RecipeError(TilthError):
    """A recipe or an override does not say something tilth can do."""

    exit_code = 2


class UnknownField(RecipeError):
    """A field that is not one of those that may stand in its place."""


class DataError(TilthError):
    """Input text, a shard, a tokenizer or a model file cannot be used as it is."""

    exit_code = 3


class CheckpointError(TilthError):
    """No checkpoint fits, or one is damaged."""

    exit_code = 4


class PlanError(TilthError):
    """The plan shows that the run cannot work; refused before the first step. `numbers` is what was counted."""

    exit_code = 5
    numbers: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """The error, and what the plan counted."""
        return super().as_dict() | ({} if self.numbers is None else {"numbers": self.numbers})


class RunInUse(TilthError):
    """Another process writes in this run directory."""

    exit_code = 6


class DivergedError(TilthError):
    """The loss is NaN or infinite; the batch is named and kept for replay."""

    exit_code = 7


class ProofFailed(TilthError):
    """A `tilth verify` proof did not hold. `results` is what every proof found, for `--json`."""

    exit_code = 8

    def __init__(self, what: str, *, where: str = "", fix: str = "", results: dict[str, Any] | None = None) -> None:
        super().__init__(what, where=where, fix=fix)
        self.results = results or {}

    def as_dict(self) -> dict[str, Any]:
        """The error, and the results of the proofs that held and of those that did not."""
        return {**super().as_dict(), "results": self.results}


class RankError(TilthError):
    """The processes that train together cannot: they were asked different things, or one of them is gone."""

    exit_code = 9


class Crashed(TilthError):
    """Something failed that tilth has no sentence for; a crash file holds what finding it takes (70 is EX_SOFTWARE)."""

    exit_code = 70


class OutOfMemory(Crashed):
    """The device or the machine has no memory left (71 is EX_OSERR)."""

    exit_code = 71


class DiskError(TilthError):
    """The system refused to read or to write a file: the disk is full, there is no permission."""

    exit_code = 74

    @classmethod
    def of(cls, err: OSError) -> DiskError:
        """The system's words for an error, the file, and what helps."""
        where, what = str(err.filename or "input or output"), str(err.strerror or err).rstrip(".")
        return cls(f"{what[0].lower()}{what[1:]}.", where=where, fix=remedy(err))


def remedy(err: BaseException) -> str:
    """What helps against an error of the system, as a sentence; "" where that is not known."""
    return {
        errno.ENOSPC: "Free some space, or name a place on another disk; then the same command goes on.",
        errno.EDQUOT: "Your share of this disk is used up: free some of it; then the same command goes on.",
        errno.EFBIG: "Files may not be larger here (`ulimit -f`): raise the limit; then the same command goes on.",
        errno.EROFS: "This disk can only be read: name a place on another one.",
        errno.EACCES: "Get the permission, or name another place.",
        errno.EPERM: "Get the permission, or name another place.",
        errno.EMFILE: "This system limits the number of open files (`ulimit -n`): raise the limit.",
    }.get(getattr(err, "errno", None) or 0, "")


class Interrupted(TilthError):
    """SIGTERM or SIGINT stopped what the same command goes on with (75 is EX_TEMPFAIL); in training, after a save."""

    exit_code = 75


def nearest(word: str, known: Iterable[str], limit: int = 3) -> str:
    """A clause naming the known words nearest to `word`: "Did you mean 'layers'?", or all of them if none is near."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=limit, cutoff=0.5)
    if close:
        return "Did you mean " + " or ".join(f"'{c}'" for c in close) + "?"
    return "Known: " + ", ".join(known) + "." if known else ""
