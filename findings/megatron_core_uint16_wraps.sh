#!/usr/bin/env bash
# megatron-core 0.16.1, `IndexedDatasetBuilder` and `IndexedDataset`. Needs a python3 with torch and numpy (PYTHON names another).
# One would guess: a token that does not fit the dtype is refused, and so is an index whose dtype is not its file's.
# Seen: 70000 in uint16 becomes 4464 and -1 becomes 65535 in silence; an index that says uint16 of a file of int32 is opened
# and gives other tokens, as nothing compares the index with the size of the file.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python=${PYTHON:-python3}
"$python" -m pip install --quiet --no-deps --target "$work/lib" megatron-core==0.16.1
cat > "$work/wraps.py" <<'PY'
import numpy
import torch
from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder


def write(name, dtype, tokens):
    builder = IndexedDatasetBuilder(f"{name}.bin", dtype=dtype)
    builder.add_document(torch.tensor(tokens), [len(tokens)])
    builder.finalize(f"{name}.idx")


write("narrow", numpy.uint16, [70000, -1, 5])
narrow = IndexedDataset("narrow")
write("other", numpy.int32, [1, 2, 3])
raw = bytearray(open("other.idx", "rb").read())
raw[17] = 8  # uint16
open("other.idx", "wb").write(raw)
other = IndexedDataset("other")
print(narrow[0].tolist(), other[0].tolist())
assert narrow[0].tolist() == [4464, 65535, 5] and other[0].tolist() == [1, 0, 2], "this has changed"
PY
cd "$work"
PYTHONPATH="$work/lib" "$python" wraps.py 2> /dev/null
