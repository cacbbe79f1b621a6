"""Amounts as people write them: 80GiB, 400TFLOP/s, 12e3tok/s."""

from __future__ import annotations

import re

from .errors import RecipeError

_STEPS = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_NUMBER = r"([0-9][0-9_]*(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?)\s*"


def memory(text: str) -> int:
    """Bytes: "80GiB", "24GB", "16G" (of 2^30 bytes, as memory is sold). Raises RecipeError."""
    found = re.fullmatch(_NUMBER + r"([kMGTPE]?)(i?B)?", text.strip())
    if not found or not (number := float(found[1].replace("_", ""))):
        raise RecipeError(f"'{text}' is no amount of memory.", where="--memory", fix="Such as 80GiB or 24GB.")
    power = " kMGTPE".index(found[2] or " ")
    return int(number * (1000 if found[3] == "B" and power else 1024) ** power)


def rate(text: str) -> tuple[float, str]:
    """(number per second, "flop" or "tok"): "4e14", "400TFLOP/s", "12000tok/s". A bare number is FLOP/s."""
    found = re.fullmatch(_NUMBER + r"([kMGTPE]?)\s*(FLOPs?|FLOPS|tok|tokens|)(?:/s)?", text.strip(), re.IGNORECASE)
    step = _STEPS.get(found[2].replace("K", "k") if found else "")
    if not found or step is None or not (number := float(found[1].replace("_", ""))):
        fix = "Such as 400TFLOP/s or 12000tok/s, of one process."
        raise RecipeError(f"'{text}' is no rate.", where="--rate", fix=fix)
    return number * step, "tok" if found[3].lower().startswith("tok") else "flop"
