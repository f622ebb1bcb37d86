"""Questions to arrays of ids: the same answers as NumPy's own, which cost an import."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kpdata.arrays import any_nan, distinct, fold, isin, lookup, median, pairs, runs

numbers = st.floats(-9, 9) | st.sampled_from([np.nan, np.inf, -np.inf])
ids = hnp.arrays(np.int64, st.integers(0, 30), elements=st.one_of(st.integers(-3, 9), st.integers(-(2**63), 2**63 - 1)))


@given(ids)
def test_distinct_is_what_numpy_calls_unique(values: np.ndarray) -> None:
    """The different values, sorted."""
    assert np.array_equal(distinct(values), np.unique(values))


@given(hnp.arrays(np.int64, st.integers(0, 30), elements=st.integers(0, 2)))
def test_runs_ask_once_for_neighbours_that_repeat(values: np.ndarray) -> None:
    """An answer to each of the values that are left is one to all; half or more repeat, or all values are left."""
    once, back = runs(values)
    assert np.array_equal(back(once * 2), values * 2)
    changes = 1 + int((values[1:] != values[:-1]).sum()) if len(values) else 0
    assert len(once) == (changes if 2 * changes <= len(values) else len(values))


@given(ids, ids)
def test_isin_is_numpys(values: np.ndarray, wanted: np.ndarray) -> None:
    """True where the value is one of the wanted, also of none and of ids far apart."""
    assert np.array_equal(isin(values, wanted), np.isin(values, wanted))


@given(ids, ids)
def test_lookup_finds_each_value_at_its_place(keys: np.ndarray, wanted: np.ndarray) -> None:
    """The position in the keys, -1 where there is none."""
    keys = np.unique(keys)[::-1]
    assert lookup(keys, wanted).tolist() == [keys.tolist().index(w) if w in keys else -1 for w in wanted.tolist()]


@given(hnp.arrays(np.float64, st.integers(1, 20), elements=st.floats(-1e6, 1e6) | st.just(np.nan)))
def test_median_is_numpys(values: np.ndarray) -> None:
    """The middle number or the mean of the two along the first axis, NaN where one is NaN; of nothing NaN."""
    assert np.array_equal(median(values), np.median(values), equal_nan=True)
    table = np.stack([values, values[::-1] * 2], axis=1)
    assert np.array_equal(median(table), np.median(table, axis=0), equal_nan=True)
    assert np.isnan(median(values[:0]))


@given(hnp.arrays(np.float64, st.tuples(st.integers(0, 4), st.integers(1, 9), st.integers(1, 3)), elements=numbers))
def test_fold_is_reduce(values: np.ndarray) -> None:
    """Least and greatest along the second axis, NaN where one is NaN."""
    for extreme in (np.minimum, np.maximum, np.fmin):
        np.testing.assert_array_equal(fold(extreme, values), extreme.reduce(values, axis=1))


@given(hnp.arrays(np.float64, st.integers(0, 9), elements=numbers))
def test_any_nan_is_numpys(values: np.ndarray) -> None:
    """Infinities of both signs, whose sum is NaN, are none."""
    assert any_nan(values) == bool(np.isnan(values).any())


@given(hnp.arrays(np.float64, st.tuples(st.integers(0, 4), st.integers(0, 3), st.just(2)), elements=st.floats(-9, 9)))
def test_pairs_are_x_and_iy(xy: np.ndarray) -> None:
    """A view: what is written into it stands in the coordinates."""
    np.testing.assert_array_equal(pairs(xy), xy[..., 0] + 1j * xy[..., 1])
    pairs(xy)[:] = 1 + 2j
    assert (xy == [1, 2]).all()
