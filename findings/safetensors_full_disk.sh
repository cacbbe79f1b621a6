#!/usr/bin/env bash
# safetensors 0.8.0, safetensors.numpy.save_file, where the system refuses to write on (here: a limit on file sizes).
# One would guess: an OSError with errno, so that a full disk can be told from anything else, and a file name.
# Seen: SafetensorError, which is no OSError and has no errno; the number stands in the words of its message alone.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet safetensors==0.8.0 numpy==2.4.6
cd "$work" && "$work/env/bin/python" - <<'PY'
import errno
import resource
import signal

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    save_file({"a": np.zeros(100_000, dtype=np.float32)}, "weights.safetensors")
except SafetensorError as err:
    print(type(err).__mro__[1].__name__, "|", err)
    assert not isinstance(err, OSError) and not hasattr(err, "errno"), "it says the number now"
    assert f"os error {errno.EFBIG}" in str(err)
else:
    raise SystemExit("it was written")
PY
