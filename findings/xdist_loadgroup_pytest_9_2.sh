#!/usr/bin/env bash
# pytest 9.2.0 with pytest-xdist 3.8.0, `--dist loadgroup` and tests marked `xdist_group("a")`.
# One would guess: as its page says, tests of one group run on one worker, so what they share is made once.
# Seen: they are spread over the workers as without the mark, in silence. xdist puts the group into `item._nodeid`, which
# this pytest does not read any more; `--dist loadfile` keeps the tests of a file together.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet pytest==9.2.0 pytest-xdist==3.8.0
cd "$work"
cat > test_group.py <<'PY'
import os
import time

import pytest

pytestmark = pytest.mark.xdist_group("a")


@pytest.mark.parametrize("number", range(6))
def test_where(number):
    with open("workers.txt", "a") as file:
        file.write(os.environ["PYTEST_XDIST_WORKER"] + "\n")
    time.sleep(0.3)
PY
workers() { rm -f workers.txt; "$work/env/bin/python" -m pytest -q -n 2 --dist "$1" test_group.py > /dev/null; sort -u workers.txt | wc -l; }
group=$(workers loadgroup) file=$(workers loadfile)
echo "workers that ran the tests of one group: loadgroup $group, loadfile $file"
[ "$group" = 2 ] && [ "$file" = 1 ] || { echo "this has changed"; exit 1; }
