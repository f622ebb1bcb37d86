"""Random numbers that any worker draws alike."""

from __future__ import annotations

import multiprocessing
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kpdata.augment.rng import EpochSampler, generator, spread
from kpdata.errors import SchemaError


def first_number(arguments: tuple[int, int, int]) -> float:
    return float(generator(*arguments).random())


def test_another_process_draws_the_same() -> None:
    """The same sample in any worker: a spawned process gets the numbers that this one gets."""
    asked = [(0, 0, 0), (7, 3, 11), (7, 3, 12)]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(first_number, asked) == [first_number(a) for a in asked]


def test_seed_epoch_and_index_all_matter() -> None:
    """Streams differ when any argument does, and (1, 0, 0), (0, 1, 0), (0, 0, 1) are three streams."""
    asked = [(s, e, i) for s in range(5) for e in range(5) for i in range(5)]
    assert len({first_number(a) for a in asked}) == len(asked)


def test_negative_numbers_are_refused() -> None:
    """A negative index would fail deep inside NumPy."""
    with pytest.raises(SchemaError, match="seed 0, epoch -1, index 3: expected whole numbers, 0 or more"):
        generator(0, -1, 3)
    for seed in ("a", 1.5, None):
        with pytest.raises(SchemaError, match="expected whole numbers"):
            generator(seed)  # type: ignore[arg-type]


def test_normal_is_clipped_as_the_recipe() -> None:
    """np.clip(randn(), -2, 2): mass on the ends, 2.275 % each."""
    drawn = spread(generator(1), "normal", clip=2.0, count=40_000)
    assert drawn.min() == -2
    assert drawn.max() == 2
    assert (drawn == 2).mean() == pytest.approx(stats.norm.sf(2), abs=0.003)
    inner = drawn[np.abs(drawn) < 2]
    assert stats.kstest(inner, stats.truncnorm(-2, 2).cdf).pvalue > 0.01


@pytest.mark.parametrize(
    ("name", "expected"), [("uniform", stats.uniform(-1, 2)), ("truncated", stats.truncnorm(-1, 1))]
)
def test_other_spreads(name: str, expected: object) -> None:
    """mmpose's truncnorm(-1, 1) and an even spread, by Kolmogorov and Smirnov's test."""
    assert stats.kstest(spread(generator(2), name, count=40_000), expected.cdf).pvalue > 0.01  # type: ignore


def test_truncated_equals_scipy() -> None:
    """The table of the inverse agrees with scipy's truncnorm.ppf."""
    even = np.random.Generator(np.random.PCG64(3)).random(1000)
    drawn = spread(np.random.Generator(np.random.PCG64(3)), "truncated", count=1000)
    np.testing.assert_allclose(drawn, stats.truncnorm(-1, 1).ppf(even), atol=1e-6)


@given(
    st.integers(1, 40), st.integers(0, 3), st.integers(1, 5), st.booleans(), st.integers(0, 4)
)  # length, seed, world, shuffle, epoch
def test_ranks_share_the_epoch(length: int, seed: int, world: int, shuffle: bool, epoch: int) -> None:
    """Nothing is lost: the ranks together see every sample, all equally many, at most world - 1 of them twice."""
    ranks = [EpochSampler(length, seed, shuffle, rank, world, epoch=epoch) for rank in range(world)]
    seen = [list(sampler) for sampler in ranks]
    assert {e for part in seen for e, _ in part} == {epoch}
    assert len({len(part) for part in seen}) == 1
    indices = [index for part in seen for _, index in part]
    assert set(indices) == set(range(length))
    assert len(indices) - length < world


@given(st.integers(1, 40), st.integers(1, 5))
def test_drop_last_repeats_nothing(length: int, world: int) -> None:
    """With drop_last no sample stands twice in an epoch."""
    if length < world:
        with pytest.raises(SchemaError, match="drop_last leaves none"):
            EpochSampler(length, world=world, drop_last=True)
        return
    seen = [i for rank in range(world) for _, i in EpochSampler(length, rank=rank, world=world, drop_last=True)]
    assert len(seen) == len(set(seen)) == length // world * world


def test_each_iteration_is_the_next_epoch() -> None:
    """The epoch reaches persistent workers: nobody calls set_epoch, and the orders differ."""
    sampler = EpochSampler(100, seed=5)
    first, second = list(sampler), list(sampler)
    assert {e for e, _ in first} == {0}
    assert {e for e, _ in second} == {1}
    assert [i for _, i in first] != [i for _, i in second]
    assert [i for _, i in first] != list(range(100))


@given(st.integers(1, 30), st.integers(1, 3), st.integers(0, 2), st.data())
def test_resuming_goes_on_where_it_was(length: int, world: int, epoch: int, data: st.DataObject) -> None:
    """Interrupted and resumed equals uninterrupted, in this epoch and the next."""
    whole = EpochSampler(length, 1, rank=world - 1, world=world, epoch=epoch)
    expected = list(whole) + list(whole)
    used = data.draw(st.integers(0, len(expected) // 2))
    resumed = EpochSampler(length, 1, rank=world - 1, world=world)
    resumed.load_state_dict({"epoch": epoch, "start": used})
    rest = list(resumed)
    if used < len(expected) // 2:  # else the position is the start of the next epoch
        assert len(rest) == len(expected) // 2 - used
        rest += list(resumed)
    assert rest == expected[used:]


def test_it_stands_in_for_a_torch_sampler() -> None:
    """It has a length, is iterated again and again and can be sent to another process."""
    sampler = pickle.loads(pickle.dumps(EpochSampler(10, rank=1, world=3)))
    assert len(sampler) == len(list(sampler)) == 4


@pytest.mark.parametrize(
    "options",
    [{"length": 0}, {"length": 3, "rank": 2, "world": 2}, {"length": 3, "seed": -1}, {"length": 3, "start": 4}],
)
def test_bad_options_are_refused(options: dict[str, int]) -> None:
    """In words, when it is made."""
    with pytest.raises(SchemaError, match=r"EpochSampler: .*(expected|0 to 3)"):
        EpochSampler(**options)  # type: ignore[arg-type]
