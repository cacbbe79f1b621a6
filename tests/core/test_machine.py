"""What the machine is asked, on systems that answer otherwise or not at all."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

import psutil
import pytest

from tilth.core import machine


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system without /proc, sysctl, affinity or resource, in no container."""
    monkeypatch.setattr(Path, "read_text", _unreadable)
    monkeypatch.setattr(Path, "write_text", _unreadable)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setitem(sys.modules, "resource", None)


def _unreadable(self: Path, *args: object, **kwargs: object) -> str:
    raise FileNotFoundError(self)


def test_without_any_of_linux_the_rest_is_asked(bare: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert machine.cores() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.cores() == 1
    assert machine.processor() == (machine.platform.processor() or machine.platform.machine()) != ""
    assert machine.memory() == pytest.approx(psutil.virtual_memory()[:2], rel=0.1)
    machine.forget_peak_memory()
    resident = psutil.Process().memory_info().rss
    assert machine.peak_memory() == pytest.approx(resident, rel=0.1)
    assert machine.versions()["cores"] == "1"


def test_cores_are_those_this_process_is_bound_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_CONTAINER", Path("/nowhere"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 5, 7}, raising=False)
    assert machine.cores() == 3


@pytest.mark.parametrize(
    ("quota", "cores"), [("150000 100000", 2), ("50000 100000", 1), ("max 100000", 8), ("9900000 100000", 8)]
)
def test_a_container_is_paid_for_so_many_cores(
    quota: str, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_CONTAINER", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    (tmp_path / "cpu.max").write_text(quota + "\n")
    assert machine.cores() == cores


def test_a_container_has_less_memory_than_its_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_CONTAINER", tmp_path)
    (tmp_path / "memory.max").write_text("300000000\n")
    (tmp_path / "memory.current").write_text("120000000\n")
    (tmp_path / "memory.stat").write_text("anon 70000000\ninactive_file 50000000\n")
    assert machine.memory() == (300_000_000, 230_000_000)
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.memory().total == psutil.virtual_memory().total


def test_peak_memory_is_in_the_unit_the_system_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", _unreadable)
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    monkeypatch.setattr(resource, "getrusage", lambda who: type("usage", (), {"ru_maxrss": kib}))
    monkeypatch.setattr(sys, "platform", "linux")
    assert machine.peak_memory() == kib * 1024
    monkeypatch.setattr(sys, "platform", "darwin")
    assert machine.peak_memory() == kib


def test_windows_tells_its_peak_through_psutil(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", _unreadable)
    monkeypatch.setitem(sys.modules, "resource", None)
    told = type("memory", (), {"rss": 5, "peak_wset": 77})
    monkeypatch.setattr(psutil.Process, "memory_info", lambda self: told)
    assert machine.peak_memory() == 77


def test_macos_names_its_processor_through_sysctl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", _unreadable)
    monkeypatch.setattr(sys, "platform", "darwin")
    done = machine.subprocess.CompletedProcess([], 0, stdout="Apple M3 Pro\n")
    monkeypatch.setattr(machine.subprocess, "run", lambda *args, **kwargs: done)
    assert machine.processor() == "Apple M3 Pro"
