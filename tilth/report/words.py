"""Numbers as a person reads them, for the terminal and the page."""

from __future__ import annotations

import math
from typing import Any

_SI = ("", "k", "M", "G", "T", "P", "E")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def number(value: Any) -> float | None:
    """A finite number, or None for anything else (booleans are no numbers)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer beyond the range of floats
        return None


def count(value: Any) -> str:
    """`4231` -> '4,231'; `6200000` -> '6.2 million'; '–' where there is no number."""
    n = number(value)
    if n is None:
        return "–"
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if abs(n) >= size:
            return f"{_digits(n / size)} {word}"
    return f"{n:,.0f}" if n == int(n) or abs(n) >= 1000 else _digits(n)


def si(value: Any, unit: str) -> str:
    """Three digits and an SI prefix: `si(2.82e11, "FLOP/s")` -> '282 GFLOP/s'."""
    n = number(value)
    if n is None:
        return "–"
    step = min(max(int(math.log10(abs(n)) // 3), 0), len(_SI) - 1) if n else 0
    if step < len(_SI) - 1 and float(_digits(abs(n) / 1000**step)) >= 1000:  # 999.9 rounds into the next prefix
        step += 1
    return f"{_digits(n / 1000**step)} {_SI[step]}{unit}"


def size(value: Any) -> str:
    """Bytes of text or of a file, decimal: '3.1 MB'."""
    return si(value, "B")


def memory(value: Any) -> str:
    """Bytes of memory, binary: '1.9 GiB'."""
    n = number(value)
    if n is None:
        return "–"
    step = 0
    while abs(n) >= 1024 and step < len(_BINARY) - 1:
        n, step = n / 1024, step + 1
    return f"{_digits(n)} {_BINARY[step]}"


def duration(value: Any) -> str:
    """Seconds: '820 ms', '12.3 s', '3 min 12 s', '2 h 5 min', '3 d 4 h'."""
    n = number(value)
    if n is None or n < 0:
        return "–"
    if n < 59.95:
        return f"{_digits(n * 1000)} ms" if n < 0.9995 else f"{_digits(n)} s"
    whole = round(n)
    for large, small, big, little in ((86400, 3600, "d", "h"), (3600, 60, "h", "min"), (60, 1, "min", "s")):
        if whole >= large:
            high, low = divmod(round(whole / small) * small, large)
            return f"{high} {big} {low // small} {little}" if low else f"{high} {big}"
    return f"{whole} s"


def hands(value: Any) -> str:
    """Seconds as a clock shows them: '3:12', '1:02:33'."""
    n = number(value)
    if n is None or n < 0:
        return "–"
    hours, rest = divmod(round(n), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def percent(value: Any) -> str:
    """A share as '63 %', with a decimal below ten."""
    n = number(value)
    if n is None:
        return "–"
    if 0 < abs(n) < 0.0005:
        return "< 0.1 %"
    text = f"{100 * n:.{0 if abs(n) >= 0.0995 else 1}f}"
    return f"{text.removesuffix('.0')} %"


def several(items: list[str]) -> str:
    """'code', 'code and prose', 'code, prose and 4 more' (at most four are named)."""
    if len(items) > 4:
        items = [*items[:3], f"{len(items) - 3} more"]
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def _digits(n: float) -> str:
    """About three significant digits, never in scientific notation above one thousandth."""
    if n == 0:
        return "0"
    places = 2 - math.floor(math.log10(abs(n)))
    if places > 5:
        return f"{n:.1e}"
    text = f"{n:.{max(places, 0)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
