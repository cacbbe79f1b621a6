"""Lists of files: every changed byte has a name, and a kill never makes a sound file look damaged."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tilth.core import manifest
from tilth.core.errors import DataError
from tilth.core.manifest import LIST, Manifest


def _made(root: Path) -> Manifest:
    (root / "model").mkdir(parents=True)
    (root / "a.json").write_text("{}")
    (root / "model" / "w.bin").write_bytes(bytes(range(256)))
    (root / ".lock").write_text("")
    manifest.seal(root)
    return Manifest(root)


def _flip(path: Path, bit: int) -> None:
    """Change a bit and nothing else, the file's time neither, as a failing disk does."""
    status, raw = path.stat(), bytearray(path.read_bytes())
    raw[bit // 8] ^= 1 << bit % 8
    path.write_bytes(raw)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_every_bit_of_a_listed_file_and_of_the_list_counts(tmp_path: Path) -> None:
    made = _made(tmp_path / "run")
    assert [*made.files()] == ["a.json", "model/w.bin"] and made.faults() == {}
    for name in ("a.json", "model/w.bin", LIST):
        path = tmp_path / "run" / name
        for bit in range(0, 8 * path.stat().st_size, 61):
            manifest._sound.clear()  # another process
            _flip(path, bit)
            if name == LIST:
                with pytest.raises(DataError, match=r"files\.json"):
                    made.faults()
            else:
                assert made.faults() == {name: "has changed since it was written (its SHA-256 differs)"}
                with pytest.raises(DataError, match=f"{name}.*changed.*Do that"):
                    made.check(fix="Do that.")
            _flip(path, bit)
    assert made.faults() == {}


def test_missing_cut_and_replaced_files_are_told_apart(tmp_path: Path) -> None:
    made = _made(tmp_path / "run")
    (tmp_path / "run" / "a.json").unlink()
    (tmp_path / "run" / "model" / "w.bin").write_bytes(b"123")
    assert made.faults() == {"a.json": "is missing", "model/w.bin": "has 3 bytes where 256 were written"}
    (tmp_path / "run" / "a.json").mkdir()
    assert made.faults(lambda name: name == "a.json") == {"a.json": "is no file any more"}


def test_what_is_written_is_off_the_list_until_it_is_there(tmp_path: Path) -> None:
    made = _made(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt), made.writing("a.json", "model"):
        (tmp_path / "run" / "a.json").write_text("half")
        raise KeyboardInterrupt
    assert made.files() == {} and made.faults() == {}
    with made.writing("a.json", "not-made.json"):
        (tmp_path / "run" / "a.json").write_text("whole")
    assert [*made.files()] == ["a.json"] and made.faults() == {}


def test_names_that_lead_out_are_refused(tmp_path: Path) -> None:
    made = _made(tmp_path / "run")
    files = {"../secret": {"bytes": 0, "sha256": ""}}
    made._write(files)  # type: ignore[arg-type]
    assert "leads out" in made.faults()["../secret"]


def test_all_lists_below_are_verified(tmp_path: Path) -> None:
    for part in ("000000", "000001"):
        _made(tmp_path / "pass" / part)
    assert manifest.verify(tmp_path) == (4, {})
    (tmp_path / "pass" / "000000" / "a.json").write_text("[]")
    (tmp_path / "pass" / "000001" / LIST).write_text(json.dumps({"files": {}, "checksum": ""}))
    sound, faults = manifest.verify(tmp_path)
    assert sound == 1 and sorted(faults) == ["pass/000000/a.json", f"pass/000001/{LIST}"]
    with pytest.raises(DataError, match="no list of files"):
        manifest.verify(tmp_path / "pass" / "000000" / "model")
