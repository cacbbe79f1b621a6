"""Which of the processes that train together this one is, by the environment torchrun or a job script made."""

from __future__ import annotations

import os
from dataclasses import dataclass

from .errors import RankError


@dataclass(frozen=True)
class Place:
    """This process among those that train together."""

    rank: int
    size: int
    local: int
    """Its number on this machine."""
    local_size: int
    """Processes on this machine."""


def place() -> Place:
    """The place of this process; alone where nothing is set. Raises RankError where the environment says half of it."""
    size, rank = _whole("WORLD_SIZE", 1, least=1), _whole("RANK", 0)
    if rank >= size:
        alone = "WORLD_SIZE" not in os.environ
        raise RankError(
            f"RANK is {rank}, and " + ("WORLD_SIZE is not set." if alone else f"WORLD_SIZE is {size}."),
            where="environment",
            fix="`torchrun --nproc-per-node N -m tilth run …` sets all that is needed; `unset RANK` runs one process.",
        )
    return Place(rank, size, _whole("LOCAL_RANK", 0), _whole("LOCAL_WORLD_SIZE", 1, least=1))


def meeting_point() -> tuple[str, int]:
    """Host and port where several ranks find each other. Raises RankError if the environment does not name them."""
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise RankError(
            f"WORLD_SIZE is {os.environ.get('WORLD_SIZE')}, and {' and '.join(missing)} "
            f"{'are' if len(missing) > 1 else 'is'} not set.",
            where="environment",
            fix="`torchrun --nproc-per-node N -m tilth run …` sets them; `unset WORLD_SIZE RANK` runs one process.",
        )
    return os.environ["MASTER_ADDR"], _whole("MASTER_PORT", 0)


def is_first() -> bool:
    """Whether this process speaks for all: rank 0, or the only one."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


def _whole(name: str, default: int, least: int = 0) -> int:
    text = os.environ.get(name) or str(default)
    if not (text.isascii() and text.isdigit()) or int(text) < least:
        raise RankError(f"'{text[:40]}' is no number from {least} on.", where=f"environment variable {name}")
    return int(text)
