"""Libraries compiled at the user's place: which compiler, for which processor, and never a damaged one."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tilth.core import cache, native
from tilth.core.native import Unavailable

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
CODE = 'extern "C" __attribute__((visibility("default"))) int answer() { return 42; }'


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A C++ file; the cache is empty and no environment variable decides."""
    for variable in ("CXX", "TILTH_NATIVE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TILTH_CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / "answer.cpp"
    path.write_text(CODE)
    return path


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").iterdir())


def compiler(path: Path, script: str) -> Path:
    """A compiler that is a shell script around g++."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def only(monkeypatch: pytest.MonkeyPatch, **found: Path | str) -> None:
    """A machine that has these compilers; c__ stands for c++."""
    there = {name.replace("__", "++"): str(path) for name, path in found.items()}
    monkeypatch.setattr(shutil, "which", there.get)


def test_a_library_is_compiled_once(source: Path, tmp_path: Path) -> None:
    assert native.load(source).answer() == 42
    (first,) = kept(tmp_path)
    before = first.stat()
    assert native.load(source).answer() == 42
    assert [p.stat() for p in kept(tmp_path)] == [before]


@pytest.mark.parametrize("where", [0, 0.3, 0.7, -1])
def test_a_damaged_library_is_never_loaded_but_built_again(source: Path, tmp_path: Path, where: float) -> None:
    native.load(source)
    (file,) = kept(tmp_path)
    whole = file.read_bytes()
    torn = bytearray(whole)
    torn[int(where * len(torn))] ^= 1
    file.unlink()  # the loaded one stays as it is
    file.write_bytes(torn)
    assert native._build(source, (), native.FLAGS, ()).read_bytes() == whole
    assert [p.read_bytes() for p in kept(tmp_path)] == [whole]


def test_a_cut_library_is_built_again(source: Path, tmp_path: Path) -> None:
    native.load(source)
    (file,) = kept(tmp_path)
    whole = file.read_bytes()
    file.unlink()
    file.write_bytes(whole[:-100])
    assert native._build(source, (), native.FLAGS, ()).read_bytes() == whole


def test_processors_that_differ_have_libraries_of_their_own(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    native.load(source)
    monkeypatch.setattr(native, "processor", lambda: "another model")
    native.load(source)
    target = native._target((shutil.which("g++"),))
    monkeypatch.setattr(native, "_target", lambda compiler: (target[0], target[1] + "#define __AVX1024F__ 1\n"))
    native.load(source)
    assert len(kept(tmp_path)) == 3


@pytest.mark.parametrize("name", ["g__", "c__", "clang__"])
def test_whichever_compiler_is_there_does(source: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, **{name: shutil.which("g++")})
    assert native.load(source).answer() == 42


def test_a_compiler_that_does_not_run_leaves_the_next_to_do_it(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = compiler(tmp_path / "bin" / "g++", "echo no cc1plus >&2; exit 1")
    only(monkeypatch, g__=broken, clang__=shutil.which("g++"))
    assert native.load(source).answer() == 42
    only(monkeypatch, g__=broken)
    native._target.cache_clear()
    with pytest.raises(Unavailable, match="no cc1plus"):
        native.load(source)


def test_a_machine_without_a_compiler_says_so(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch)
    with pytest.raises(Unavailable, match=r"no compiler found \(g\+\+, c\+\+, clang\+\+; CXX names another\)"):
        native.load(source)


def test_cxx_names_a_command_with_its_arguments(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = compiler(tmp_path / "bin" / "launch it", 'echo "$1" >> "$0.said"; exec "$@"')
    monkeypatch.setenv("CXX", f"'{launcher}' g++ -DWHAT=1")
    assert native.load(source).answer() == 42
    assert set((tmp_path / "bin" / "launch it.said").read_text().split()) == {"g++"}
    monkeypatch.setenv("CXX", "nowhere++")
    with pytest.raises(Unavailable, match=r"nowhere\+\+ does not run"):
        native.load(source)


@pytest.mark.parametrize("known", ["-march=native", "-mcpu=native", "none"])
def test_flags_for_this_processor_are_those_the_compiler_knows(
    source: Path, tmp_path: Path, known: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = f"""
used=none; n=$#
while [ $n -gt 0 ]; do
  case "$1" in
    -m*=native) [ "$1" = "{known}" ] || {{ echo "unknown argument $1" >&2; exit 1; }}; used="$1" ;;
    *) set -- "$@" "$1" ;;
  esac
  shift; n=$((n - 1))
done
echo "$used" >> "$0.said"
exec g++ "$@"
"""
    only(monkeypatch, c__=compiler(tmp_path / "bin" / "c++", script))
    assert native.load(source).answer() == 42
    assert (tmp_path / "bin" / "c++.said").read_text().split() == [known, known]  # asked once, compiled once


def test_a_feature_the_processor_lacks_is_named(source: Path) -> None:
    with pytest.raises(Unavailable, match="lacks avx9_bf16"):
        native.load(source, needed=("avx9_bf16",))


def test_windows_has_the_plain_forms(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(Unavailable, match="on Linux and macOS only"):
        native.load(source)


def test_a_kept_table_that_is_damaged_is_made_again(source: Path, tmp_path: Path) -> None:
    from tilth.data.native import unicode

    made: list[int] = []

    def make() -> unicode.np.ndarray:
        made.append(1)
        return unicode.np.arange(50)

    for _ in range(2):
        assert unicode.cached("numbers", make)[49] == 49
    assert len(made) == 1
    (file,) = kept(tmp_path)
    raw = bytearray(file.read_bytes())
    raw[-8] ^= 1
    file.write_bytes(raw)
    assert unicode.cached("numbers", make)[49] == 49
    assert len(made) == 2


def test_nothing_is_found_where_nothing_was_kept(source: Path) -> None:
    assert cache.find("answer", ".so") is None
    assert not os.path.exists(cache.cache_dir())
