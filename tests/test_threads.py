"""Pieces of work side by side."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from kpdata import threads
from kpdata.eval import evaluate_arrays, oks
from kpdata.threads import WORTH_IT, in_threads
from tests.eval.test_average_precision import scene


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


def test_threads_do_not_show(coco, monkeypatch):
    """The curves have the same bits with one thread and with four, in however many pieces."""
    gt, dt, params = coco.arrays(scene(coco))
    whole = evaluate_arrays(gt, dt, [1, 2], [1], params)
    monkeypatch.setattr(threads, "WORTH_IT", 1)
    monkeypatch.setattr(threads, "workers", lambda: 4)
    monkeypatch.setattr(oks, "WORTH_IT", 1)
    monkeypatch.setattr(oks, "workers", lambda: 4)
    parts = evaluate_arrays(gt, dt, [1, 2], [1], params)
    assert all(np.array_equal(getattr(whole, n), getattr(parts, n)) for n in ("precision", "recall", "scores"))
