"""Training speed of this checkout beside an older one's, in one interleaved run: `python bench/train_before.py OLD`.

Each trains in a process of its own, from its own checkout, on the batches that `bench/train_cpu.py` takes, in turns of
k steps; who begins alternates. The ratio new/old of processor time per step is taken within a round (the cores may be
somebody else's too); the figure is its median over rounds, with the spread of the rounds. Writes nothing.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from contenders import ROOT, SHAPES, write_batches
from train_cpu import Worker


def main() -> None:
    """Print the ratio per shape."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path, help="a checkout of the build before")
    parser.add_argument("--shapes", default="A,B")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=3, help="steps of each in a round")
    asked = parser.parse_args()
    for shape in asked.shapes.split(","):
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "batches.npy"
            write_batches(SHAPES[shape], Path("runs"), data)
            workers = {
                name: Worker("tilth", sys.executable, shape, data, threads=1, root=root)
                for name, root in (("old", asked.old.resolve()), ("new", ROOT))
            }
            ratios, spent = [], dict.fromkeys(workers, 0.0)
            for turn in range(asked.rounds):
                took = {}
                for name in sorted(workers, reverse=bool(turn % 2)):
                    before = workers[name].cpu_seconds()
                    workers[name].ask(asked.steps)
                    took[name] = workers[name].cpu_seconds() - before
                    spent[name] += took[name]
                ratios.append(took["new"] / took["old"])
            for worker in workers.values():
                worker.close()
        low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
        said = f"new/old {middle:.4f} [{low:.4f}-{high:.4f}] over {asked.rounds} rounds of {asked.steps} steps"
        print(f"{shape}: processor time per step {said}; in sum {spent['new'] / spent['old']:.4f}")


if __name__ == "__main__":
    main()
