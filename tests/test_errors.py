"""Every kind of error, told as it was, also across processes."""

from __future__ import annotations

import pickle

import pytest

from kpdata import errors

ALL = [
    errors.KpdataError("a sentence", hint="what to do"),
    errors.FormatError("people.json", "cut off", hint="download it again"),
    errors.UnknownFormat("people.xyz", "no format"),
    errors.SchemaError("wrong length"),
    errors.SkeletonError("unknown"),
    errors.DestinationExists("people.kp"),
    errors.LossyWrite("people.json", "lsp", "3 boxes"),
    errors.WriteError("disk full"),
    errors.EvaluationError("no pairs"),
    errors.TrainError("loss is NaN"),
    errors.BrowseError("another dataset"),
    errors.MissingExtra("torch", "train", "training"),
]


@pytest.mark.parametrize("error", ALL, ids=lambda error: type(error).__name__)
def test_errors_survive_the_way_from_a_worker(error: errors.KpdataError) -> None:
    """Pickled and back: the kind, the sentence, the hint and every other field."""
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error) and str(back) == str(error) and back.__dict__ == error.__dict__
    assert back.args == (error.message,)


def test_every_kind_is_in_this_file() -> None:
    """A new kind of error is tested as well."""
    kinds = {
        value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.KpdataError)
    }
    assert kinds == {type(error) for error in ALL}
