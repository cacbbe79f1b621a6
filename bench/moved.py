"""Keep the evidence of techniques whose code was moved and still does the same: `python bench/moved.py OLD_CHECKOUT`.

Every technique whose record is of the code in OLD_CHECKOUT, and no longer of the code here, is trained in both
checkouts, each with the learner, the contracts and the technique of its own: a stage of 40 steps with a batch that
has no target in it, then one of 20 that takes over, with periods short enough that what happens now and then happens.
Where losses, norms, rates, weights and evaluated weights are equal bit for bit, and the card's trial is the same, the
record is stamped with the hash of the code here. Everything else stays stale, and is named. Nothing is imported from
one checkout into the other: children print hashes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]

CHILD = """
import dataclasses, hashlib, json, sys
import torch
from tilth.core.clock import Clock
from tilth.core.technique import card, names
from tilth.lab import evidence
from tilth.lab.contracts import learning, small
from tilth.lab.contracts.processes import APART

SHORT = {  # so that what comes in periods comes
    "schedule.autolrs": {"warmup": 0.0, "candidates": 3, "trial": 3, "commit": 4},
    "weights.self_guided": {"share": 0.3},
    "optim.lisa": {"layers": 1, "every": 3},
    "precision.rf8": {"begin": 0.3},
}

def trace(area, given):
    h, before = hashlib.sha256(), None
    for stage, steps in enumerate((40, 20)):
        it = learning.learner(area, given)
        if before is not None:
            it.model.load_state_dict(before.model.state_dict())
            it.adopt(before)
        for t in range(steps):
            batch = learning.batch(100 * stage + t)
            if (stage, t) == (0, 7):
                batch = dataclasses.replace(batch, targets=torch.full_like(batch.targets, -100))
            r = it.step(batch, Clock(t, steps, t * batch.tokens.numel(), stage))
            h.update(repr((r.loss, r.grad_norm, r.lr, r.updated)).encode())
        for name, tensor in sorted(learning.weights(it).items()):
            h.update(name.encode() + tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        before = it
    return h.hexdigest()

torch.set_num_threads(1)
out = {}
for identity in json.loads(sys.argv[1]) or [s.identity for s in evidence.states()]:
    area, name = identity.split(".")
    state = evidence.state(identity)
    if state.state == "exempt" or state.state == "missing":
        continue
    row = {"state": state.state, "trial": card(area, name).get("trial")}
    try:
        given = {**small(identity), **APART.get(identity, {}), **SHORT.get(identity, {})}
        row["bits"] = trace(area, given) if json.loads(sys.argv[2]) else ""
    except Exception as err:
        row["failed"] = f"{type(err).__name__}: {err}"
    out[identity] = row
print(json.dumps(out))
"""


def said(checkout: Path, identities: list[str], train: bool) -> dict[str, dict[str, Any]]:
    """What a checkout says of these techniques (none named: of all): state of the record, trial, hash of a training."""
    child = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(identities), json.dumps(train)],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(child.stdout.splitlines()[-1])


def main() -> int:
    """Stamp what can be stamped; 1 if a record stays stale."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path, help="a checkout whose evidence is current")
    parser.add_argument("identities", nargs="*", help="techniques (default: all whose record is stale here)")
    asked = parser.parse_args()
    wanted = asked.identities or [i for i, row in said(HERE, [], False).items() if row["state"] == "stale"]
    if not wanted:
        print("no record is stale")
        return 0
    before, now = said(asked.old.resolve(), wanted, True), said(HERE, wanted, True)
    left = 0
    for identity in wanted:
        if why := difference(before.get(identity), now.get(identity)):
            print(f"{identity}: {why}")
            left += 1
        else:
            stamp(identity)
            print(f"{identity}: the same bits, stamped")
    return int(left > 0)


def difference(before: dict[str, Any] | None, now: dict[str, Any] | None) -> str:
    """Why the record of one technique cannot be kept; empty if it can."""
    if before is None or now is None:
        return "there is no record to keep in one of the checkouts"
    if before["state"] != "current":
        return f"its record is {before['state']} in the old checkout already"
    if failed := [row["failed"] for row in (before, now) if "failed" in row]:
        return f"it did not train: {failed[0]}"
    if before["trial"] != now["trial"]:
        return "the card's trial is another one"
    return "" if before["bits"] == now["bits"] else "it trains otherwise"


def stamp(identity: str) -> None:
    """Give a record the hash of the code here."""
    sys.path.insert(0, str(HERE))
    from tilth.lab import evidence
    from tilth.lab.catalog import evidence_path

    record = evidence.read(evidence_path(identity))
    evidence.write(record.model_copy(update={"source_hash": evidence.source_hash(identity)}))


if __name__ == "__main__":
    sys.exit(main())
