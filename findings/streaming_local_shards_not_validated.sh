#!/usr/bin/env bash
# mosaicml-streaming 0.13.0, `StreamingDataset(local=…, validate_hash="sha1")` of shards written with `hashes=["sha1"]`.
# Needs a python3 in which that package is installed (PYTHON names it).
# One would guess: as its page says, the algorithm is used "to validate shards", so one with a flipped bit is refused.
# Seen: shards that lie in `local` already are read as they are; only what is downloaded or inflated is validated.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
cat > "$work/flip.py" <<'PY'
import numpy as np
from streaming import MDSWriter, StreamingDataset

with MDSWriter(out="m", columns={"tokens": "ndarray:int32"}, hashes=["sha1"]) as writer:
    writer.write({"tokens": np.array([30, 31, 32, 33], np.int32)})
raw = bytearray(open("m/shard.00000.mds", "rb").read())
raw[-2] ^= 1
open("m/shard.00000.mds", "wb").write(raw)
read = StreamingDataset(local="m", shuffle=False, batch_size=1, validate_hash="sha1")[0]["tokens"].tolist()
print(read)
assert read == [30, 31, 32, 65569], "this has changed"
PY
cd "$work"
"${PYTHON:-python3}" flip.py 2> /dev/null
