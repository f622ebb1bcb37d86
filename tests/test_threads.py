"""Pieces of work side by side."""

from __future__ import annotations

import threading

import pytest

from kpdata import threads
from kpdata.threads import WORTH_IT, in_threads


def test_results_come_in_order(monkeypatch):
    """Whichever task is done first, and however many there are for a thread."""
    monkeypatch.setattr(threads, "workers", lambda: 3)
    for n in (0, 1, 2, 3, 40):
        assert in_threads([lambda i=i: i * i for i in range(n)], size=WORTH_IT) == [i * i for i in range(n)]


def test_threads_are_used_only_for_much(monkeypatch):
    """Two tasks that wait for each other end only if both run; small ones stay in the caller's thread."""
    monkeypatch.setattr(threads, "workers", lambda: 2)
    meet = threading.Barrier(2, timeout=20)
    assert sorted(in_threads([meet.wait, meet.wait], size=WORTH_IT)) == [0, 1]
    names = in_threads([lambda: threading.current_thread().name] * 9, size=WORTH_IT - 1)
    assert set(names) == {threading.current_thread().name}


def test_an_error_reaches_the_caller(monkeypatch):
    """As it was raised, after all threads have ended."""
    monkeypatch.setattr(threads, "workers", lambda: 2)
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        in_threads([lambda: 1 // 0] * 5, size=WORTH_IT)
    assert threading.active_count() == before


def test_both_are_done():
    """Two tasks of different kinds give both their results, in one thread or two."""
    for size in (1, threads.WORTH_IT):
        assert threads.both(lambda: 1, lambda: "a", size=size) == (1, "a")


def test_a_system_without_threads(monkeypatch):
    """Where no thread can be started the caller's does everything."""

    def refused(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads, "workers", lambda: 3)
    monkeypatch.setattr(threading.Thread, "start", refused)
    assert in_threads([lambda i=i: i for i in range(5)], size=WORTH_IT) == list(range(5))


def test_an_interruption_while_waiting(monkeypatch):
    """Ctrl-C ends the others with what they do: tasks that nobody began stay undone."""
    monkeypatch.setattr(threads, "workers", lambda: 2)
    done, held, main = [], threading.Event(), threading.current_thread()
    joined = threading.Thread.join

    def task():
        if threading.current_thread() is main:
            return
        done.append(held.wait(20))

    def interrupted(self, timeout=None):
        monkeypatch.setattr(threading.Thread, "join", joined)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        in_threads([task] * 50, size=WORTH_IT)
    held.set()
    for thread in threading.enumerate():
        if thread is not main and not thread.daemon:
            thread.join(20)
    assert len(done) <= 1
