"""Random streams are pure functions of their key."""

from __future__ import annotations

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from tilth.core.streams import key, stream


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**40), st.integers(0, 2**40))
def test_equal_keys_equal_streams_and_others_differ(seed: int, step: int, sample: int) -> None:
    a, b = stream(seed, "dropout", step, sample).random(4), stream(seed, "dropout", step, sample).random(4)
    assert (a == b).all()
    assert (a != stream(seed, "dropout", step, sample + 1).random(4)).any()
    assert (a != stream(seed, "noise", step, sample).random(4)).any()


def test_the_same_in_another_process_with_another_hash_seed() -> None:
    code = "from tilth.core.streams import key; print(key(7, 'order', 3))"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "5"}
    )
    assert int(out.stdout) == key(7, "order", 3)
