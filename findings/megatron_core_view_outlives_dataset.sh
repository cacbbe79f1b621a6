#!/usr/bin/env bash
# megatron-core 0.16.1, `IndexedDataset`. Needs a python3 with torch and numpy (PYTHON names another).
# One would guess: the array that `dataset[i]` gives can be used as long as it is held, as numpy's views keep their buffer.
# Seen: it is a view of a map that `IndexedDataset.__del__` closes; used after the dataset is gone, the process dies of a
# segmentation fault. Copy what is taken out, or keep the dataset.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python=${PYTHON:-python3}
"$python" -m pip install --quiet --no-deps --target "$work/lib" megatron-core==0.16.1
cat > "$work/view.py" <<'PY'
import sys

import numpy
import torch
from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder

builder = IndexedDatasetBuilder("x.bin", dtype=numpy.int32)
builder.add_document(torch.tensor([1, 2, 3]), [3])
builder.finalize("x.idx")
dataset = IndexedDataset("x")
tokens = dataset[0]
if sys.argv[1] == "gone":
    del dataset
print(tokens)
PY
cd "$work"
export PYTHONPATH="$work/lib"
"$python" view.py kept 2> /dev/null
gone=0; "$python" view.py gone 2> /dev/null || gone=$?
echo "exit code with the dataset gone: $gone"
[ "$gone" = 139 ] || { echo "this has changed"; exit 1; }
