from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from tilth.train import signals
from tilth.train.signals import Interrupt, agree


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.01)  # handlers run between bytecodes of the main thread


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_sets_a_flag_and_nothing_else(number: signal.Signals) -> None:
    before = {n: signal.getsignal(n) for n in signals.STOPPING}
    with Interrupt() as interrupt:
        assert interrupt.requested is None
        send(number)
        assert interrupt.requested == number.name
        send(signal.SIGTERM)
        assert interrupt.requested == number.name  # the first is told
    assert {n: signal.getsignal(n) for n in signals.STOPPING} == before


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_ctrl_c_stops_at_once(first: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "ECHO_SECONDS", 0.0)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Interrupt() as interrupt:
        send(first)
        send(signal.SIGINT)
        assert interrupt.requested == first.name
        send(signal.SIGINT)
        pytest.fail("went on after the second Ctrl-C")
    assert signal.getsignal(signal.SIGINT) is before


def test_the_echo_of_a_ctrl_c_is_not_a_second_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "ECHO_SECONDS", 60.0)
    with Interrupt() as interrupt:
        send(signal.SIGINT)
        send(signal.SIGINT)
        assert interrupt.requested == "SIGINT"


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        with Interrupt() as interrupt:
            send(signal.SIGUSR1)
            assert interrupt.requested is None
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, before)


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


def test_one_process_agrees_with_itself() -> None:
    """Two ranks: see two_ranks.py in test_store.py."""
    assert agree(None) is None
    assert agree("SIGTERM") == "SIGTERM"
