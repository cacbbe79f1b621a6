"""Stopping signals: the first one decides, later ones change nothing, ignored ones stay ignored."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from tilth.core import stopping
from tilth.core.stopping import Interrupt, Stopped


@pytest.fixture(autouse=True)
def _handlers_of_its_own() -> Iterator[None]:
    """Whatever the parent ignores (a job in the background ignores SIGINT), these tests start from the defaults."""
    before = {n: signal.signal(n, signal.SIG_DFL) for n in stopping.STOPPING}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.01)  # handlers run between bytecodes of the main thread


@pytest.mark.parametrize("number", stopping.STOPPING)
def test_a_signal_sets_a_flag_and_nothing_else(number: signal.Signals) -> None:
    before = {n: signal.getsignal(n) for n in stopping.STOPPING}
    with Interrupt() as interrupt:
        assert interrupt.requested is None
        send(number)
        assert interrupt.requested == number.name
        send(signal.SIGTERM)
        assert interrupt.requested == number.name  # the first is told
    assert {n: signal.getsignal(n) for n in stopping.STOPPING} == before


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_changes_nothing_and_is_answered_once(
    first: signal.Signals,
    second: signal.Signals,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(stopping, "ECHO_SECONDS", 0.0)
    with Interrupt() as interrupt:
        send(first)
        send(second)
        send(second)
        assert interrupt.requested == first.name
    assert (
        capfd.readouterr().err == f"{second.name} again: already stopping after {first.name}; kill -9 would not wait.\n"
    )


def test_the_echo_of_a_ctrl_c_is_not_a_second_one(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stopping, "ECHO_SECONDS", 60.0)
    with Interrupt() as interrupt:
        send(signal.SIGINT)
        send(signal.SIGINT)
        assert interrupt.requested == "SIGINT"
    assert capfd.readouterr().err == ""


def test_where_nothing_polls_the_first_signal_raises_and_no_cleanup_is_disturbed() -> None:
    cleaned = False
    with pytest.raises(Stopped, match="SIGTERM"), Interrupt(raising=True):
        try:
            send(signal.SIGTERM)
            pytest.fail("went on")
        finally:
            send(signal.SIGINT)
            cleaned = True
    assert cleaned
    assert not issubclass(Stopped, Exception)  # so that no `except Exception` on the way swallows it


def test_inside_the_loop_a_signal_waits_and_one_nobody_acted_on_is_raised_at_its_end() -> None:
    with Interrupt(raising=True) as interrupt:
        with pytest.raises(Stopped, match="SIGUSR1"), interrupt.deferred():
            send(signal.SIGUSR1)
            assert interrupt.requested == "SIGUSR1"
        with pytest.raises(ValueError, match="its own"), interrupt.deferred():
            raise ValueError("its own")


def test_an_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    with Interrupt() as interrupt:
        send(signal.SIGUSR1)
        assert interrupt.requested is None
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN


def test_outside_the_main_thread_it_does_nothing() -> None:
    before = signal.getsignal(signal.SIGTERM)
    inside = []

    def run() -> None:
        with Interrupt() as interrupt:
            inside.append((interrupt.requested, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert inside == [(None, before)]
