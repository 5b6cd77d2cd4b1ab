"""Batches of a data set, and functions that are timed in turns."""

import time

import numpy as np
import pytest

from keras_resadapt.batches import first_images, labelled_batches
from keras_resadapt.timing import median_times, time_in_turns


def test_first_images(batch):
    images, labels = batch
    small = images[:, ::2, ::2]
    data = [((images, small), labels), ((images, small), labels)]
    batches = list(first_images(data, 11, verbose=False))
    assert [[len(view) for view in views] for views in batches] == [[8, 8], [3, 3]]
    (cut,) = first_images([images], 3, verbose=False)
    np.testing.assert_array_equal(cut, images[:3])
    assert len(list(first_images([images], 100, verbose=False))) == 1


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda x, y: {"image": x, "label": y}, r"a dict with the keys \['image'"),
        (lambda x, y: (x, y, y), "a tuple of 3 elements"),
        (lambda x, y: (x[..., :1], y), r"shape .*3\).*\(8, 32, 32, 1\) in batch 1"),
        (lambda x, y: (x[0], y), r"shape .*3\).*\(32, 32, 3\) in batch 1"),
        (lambda x, y: ("images", y), "shape .*3.*a str"),
        (lambda x, y: ((), y), "shape .*3.*a tuple of 0"),
        (lambda x, y: ((x, x[:4]), y), r"equally many .*\[8, 4\]"),
        (lambda x, y: (x[:0], y[:0]), "at least one image"),
        (lambda x, y: (x, y[:4]), "one label per image.*8 images, 4 labels"),
        (lambda x, y: (x * np.nan, y), "finite"),
    ],
)
def test_bad_batches(batch, make, message):
    with pytest.raises(ValueError, match=f"`data`.*{message}"):
        list(labelled_batches([make(*batch)], verbose=False))


def test_functions_take_turns():
    calls = []
    functions = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = time_in_turns(functions, repeats=2, warmup=1)
    assert calls == ["a", "b"] * 3
    assert [len(values) for values in times.values()] == [2, 2]
    medians = median_times(
        {"fast": lambda: None, "slow": lambda: time.sleep(0.005)}, repeats=3
    )
    assert medians["fast"] < 5 <= medians["slow"] < 500
    for kwargs in ({"repeats": 0}, {"repeats": 1.0}, {"warmup": -1}):
        with pytest.raises(ValueError, match=f"`{[*kwargs][0]}` must be"):
            time_in_turns(functions, **kwargs)


@pytest.mark.parametrize("wanted, last", [(11, "11/11"), (100, "16/16")])
def test_progress_of_first_images_ends(batch, capsys, wanted, last):
    """With the images that are needed, or with the data."""
    for _ in first_images([batch, batch], wanted):
        assert last not in capsys.readouterr().out
    assert last in capsys.readouterr().out
