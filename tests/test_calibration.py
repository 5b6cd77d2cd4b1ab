"""Thresholds from held-out data, for budgets and bounds on the accuracy loss."""

import json

import keras
import numpy as np
import pytest

from keras_resadapt import OperatingPoint, inference
from keras_resadapt.inference import (
    PointLogits,
    anytime,
    budgeted,
    calibrate,
    collect_logits,
    simulate,
)
from keras_resadapt.inference.storing.confidence import softmax

MADDS = (100, 250, 400)


def draw(number, seed=0, classes=4, signals=(1.2, 1.8, 2.2)):
    """Returns logits of a cascade whose later exits are more accurate."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, number)
    ease = rng.uniform(0, 2, number)
    shared = rng.normal(size=(number, classes))
    right = np.eye(classes)[labels]
    logits = [
        signal * ease[:, None] * right
        + 0.8 * shared
        + 0.6 * rng.normal(size=(number, classes))
        for signal in signals
    ]
    return PointLogits(
        np.stack(logits), labels, MADDS, ("exit0", "exit1", "exit2"), "f1"
    )


@pytest.fixture(scope="module")
def held_out():
    return draw(1000)


def accuracy(collected, thresholds):
    return np.mean(simulate(collected, thresholds).classes == collected.labels)


def cost(collected, thresholds):
    return simulate(collected, thresholds).madds.mean()


# === Evaluation ===


@pytest.mark.slow
def test_collected_logits(tiny_cascade, batch, tmp_path):
    images, labels = batch
    data = [(images[:5], labels[:5]), (images[5:], labels[5:])]
    collected = collect_logits(tiny_cascade, data, verbose=False)
    for logits, expected in zip(collected.logits, tiny_cascade(images).values()):
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(collected.labels, labels)
    assert collected.madds == tuple(r.madds for r in tiny_cascade.profile())
    collected.save(tmp_path / "logits.npz")
    again = PointLogits.load(tmp_path / "logits.npz")
    np.testing.assert_array_equal(again.logits, collected.logits)
    assert (again.madds, again.names, again.fingerprint) == (
        collected.madds,
        ("exit0", "exit1", "exit2"),
        collected.fingerprint,
    )
    np.savez(tmp_path / "other.npz", a=1)
    with pytest.raises(ValueError, match="other.npz.*does not hold the logits"):
        PointLogits.load(tmp_path / "other.npz")


def test_anytime(held_out):
    for exit, (name, madds, share) in enumerate(anytime(held_out)):
        assert (name, madds) == (f"exit{exit}", MADDS[exit])
        right = held_out.logits[exit].argmax(-1) == held_out.labels
        assert share == right.mean()


def test_simulation_is_equation_2(held_out):
    thresholds = inference.Thresholds((0.8, 0.6), (1.5, 1.0, 0.5))
    got = simulate(held_out, thresholds)
    for image in range(100):
        for exit in range(3):
            z = held_out.logits[exit, image] / thresholds.temperatures[exit]
            p = np.exp(z) / np.exp(z).sum()
            if exit == 2 or p.max() >= thresholds.values[exit]:
                break
        assert got.exits[image] == exit and got.classes[image] == p.argmax()
        assert got.madds[image] == MADDS[exit]
        np.testing.assert_allclose(got.probabilities[image], p, rtol=1e-5)
    with pytest.raises(ValueError, match="need 2 thresholds"):
        simulate(held_out, [0.5])


def test_budgeted(held_out):
    test = draw(2000, seed=1)
    rows = budgeted(held_out, test, budgets=5)
    assert [row.budget for row in rows] == [100, 175, 250, 325, 400]
    assert rows == budgeted(held_out, test, np.linspace(100, 400, 5))
    for row in rows:
        assert row.madds == cost(test, row.thresholds)
        assert row.accuracy == accuracy(test, row.thresholds)
        assert abs(row.madds - row.budget) < 15
    assert rows[0].accuracy == anytime(test)[0][2]
    assert rows[-1].accuracy == anytime(test)[-1][2]
    # For intermediate budgets, it beats stopping all images at the same exit.
    assert rows[2].accuracy > anytime(test)[1][2]


# === Budgets ===


@pytest.mark.parametrize("budget", [100, 130, 250, 333, 400])
def test_geometric_shares(held_out, budget):
    thresholds = calibrate(held_out, max_madds=budget, method="geometric")
    assert budget - 2 < cost(held_out, thresholds) <= budget
    shares = np.bincount(simulate(held_out, thresholds).exits, minlength=3)
    # In a geometric series, the square of the middle is the product of its
    # neighbors.
    middle = np.sqrt(float(shares[0] * shares[2]))
    assert abs(shares[1] - middle) <= 3
    assert thresholds.fingerprint == "f1"


@pytest.mark.parametrize("budget", [100, 130, 250, 333, 400])
def test_search_beats_the_rule(held_out, budget):
    searched = calibrate(held_out, max_madds=budget)
    rule = calibrate(held_out, max_madds=budget, method="geometric")
    assert cost(held_out, searched) <= budget
    assert accuracy(held_out, searched) >= accuracy(held_out, rule)


def test_search_finds_the_best_of_all():
    """Compared with all possible thresholds, for two exits and 40 images."""
    few = draw(40, seed=5)
    few = PointLogits(few.logits[:2], few.labels, MADDS[:2], few.names[:2])
    values = [0, *np.sort(few.confidence[0]) - 1e-6, 1]
    for budget in (110, 150, 200, 250):
        best = max(accuracy(few, [v]) for v in values if cost(few, [v]) <= budget)
        found = calibrate(few, max_madds=budget)
        assert accuracy(few, found) == best and cost(few, found) <= budget


def test_ties(held_out):
    """Confidences with few distinct values, some of them 1.

    The search is at least as accurate as the rule. At the largest budget, all
    images reach the last exit.
    """
    logits = np.round(held_out.logits * 2) * 4
    few = PointLogits(logits, held_out.labels, MADDS, held_out.names)
    assert len(np.unique(few.confidence[0])) < 100
    assert (few.confidence[0] == 1).mean() > 0.05
    for budget in (150, 250, 400):
        searched = calibrate(few, max_madds=budget)
        rule = calibrate(few, max_madds=budget, method="geometric")
        assert max(cost(few, searched), cost(few, rule)) <= budget
        assert accuracy(few, searched) >= accuracy(few, rule)
    assert (simulate(few, rule).exits == 2).all()
    assert (simulate(few, [1, 1]).exits == 2).all()


def test_milliseconds(held_out):
    exit_ms = [1.0, 5.0, 6.0]
    thresholds = calibrate(held_out, max_ms=2.0, exit_ms=exit_ms)
    exits = simulate(held_out, thresholds).exits
    assert 1.8 < np.mean(np.array(exit_ms)[exits]) <= 2.0


def test_temperatures(held_out):
    factors = np.array([0.25, 1.0, 5.0])
    fitted = np.array(inference.fit_temperatures(held_out))
    scaled = PointLogits(
        held_out.logits * factors[:, None, None].astype("float32"),
        held_out.labels,
        MADDS,
        held_out.names,
    )
    refitted = np.array(inference.fit_temperatures(scaled))
    np.testing.assert_allclose(refitted, fitted * factors, rtol=1e-3)
    thresholds = calibrate(held_out, max_madds=250, temperature_scaling=True)
    assert thresholds.temperatures == tuple(fitted)
    # The minimum of the cross-entropy
    images = np.arange(len(held_out.labels))
    for z, t in zip(held_out.logits.astype("float64"), fitted):
        at, below, above = (
            -np.log(softmax(z / s))[images, held_out.labels].mean()
            for s in (t, 0.97 * t, 1.03 * t)
        )
        assert at < min(below, above)


# === Bounds on the accuracy loss ===


@pytest.mark.slow
def test_bound_holds():
    """Over many draws of held-out data, the bound fails as rarely as it may."""
    everything = draw(100_000, seed=99)
    full = accuracy(everything, [1, 1])
    broken, savings = 0, []
    for seed in range(40):
        thresholds = calibrate(draw(600, seed), max_accuracy_loss=0.05, confidence=0.9)
        broken += full - accuracy(everything, thresholds) > 0.05
        savings.append(1 - cost(everything, thresholds) / MADDS[-1])
    # At the allowed rate of 10 %, 9 or more failures of 40 have a probability
    # of 1.5 %.
    assert broken < 9
    assert np.median(savings) > 0.1  # the bound permits early exits


def test_more_data_permits_earlier_exits():
    losses = dict(max_accuracy_loss=0.02, confidence=0.95)
    with pytest.raises(ValueError, match="60 images cannot support"):
        calibrate(draw(60), **losses)
    some, many = (calibrate(draw(n, seed=3), **losses) for n in (1000, 20000))
    test = draw(20000, seed=4)
    assert cost(test, many) < cost(test, some) <= MADDS[-1]


# === Bad input ===


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "Exactly one of"),
        ({"max_madds": 200, "max_accuracy_loss": 0.1}, "Exactly one of"),
        ({"max_madds": 99}, "from 100, the cost of the first exit.*max_madds=99"),
        ({"max_madds": 401}, "to 400, the cost of the last exit.*max_madds=401"),
        ({"max_ms": 1.0}, "`max_ms` and `exit_ms`.*together"),
        ({"max_madds": 200, "exit_ms": [1, 2, 3]}, "together"),
        ({"max_ms": 1, "exit_ms": [1, 2, np.inf]}, "3 increasing"),
        ({"max_ms": 9, "exit_ms": [1, 2, 3]}, "to 3, the cost of the last exit"),
        ({"max_ms": 1, "exit_ms": [1, 3]}, "3 increasing positive numbers"),
        ({"max_ms": 1, "exit_ms": [1, 3, 2]}, "3 increasing"),
        ({"max_accuracy_loss": 0.0}, r"in \(0, 1\).*0.0"),
        ({"max_accuracy_loss": 0.1, "confidence": 1}, "`confidence`.*1"),
        ({"max_madds": 200, "method": "greedy"}, "`method`.*'greedy'"),
    ],
)
def test_bad_arguments(held_out, arguments, message):
    with pytest.raises(ValueError, match=message):
        calibrate(held_out, **arguments)


def test_bad_data(held_out):
    with pytest.raises(ValueError, match="0 images of 0 classes"):
        calibrate(held_out.take([]), max_madds=200)
    with pytest.raises(ValueError, match="images of 1 classes"):
        calibrate(held_out.take(held_out.labels == 1), max_madds=200)
    with pytest.raises(ValueError, match="not finite"):
        PointLogits(held_out.logits * np.nan, *_rest(held_out))
    with pytest.raises(ValueError, match="must have shape"):
        PointLogits(held_out.logits[0], *_rest(held_out))
    backwards = PointLogits(
        held_out.logits, held_out.labels, MADDS[::-1], held_out.names
    )
    with pytest.raises(ValueError, match="the cheapest first"):
        calibrate(backwards, max_madds=200)
    with pytest.raises(ValueError, match="the cheapest first"):
        simulate(backwards, [0.5, 0.5])
    with pytest.raises(ValueError, match="`budgets`.*0"):
        budgeted(held_out, held_out, 0)
    with pytest.raises(ValueError, match="`budgets` must hold at least one"):
        budgeted(held_out, held_out, [])
    with pytest.raises(ValueError, match="`held_out` must have at least one"):
        inference.fit_temperatures(held_out.take([]))


def test_collecting_at_another_size(tiny_cascade):
    """The multiply-adds are those of images of that size."""
    images, labels = np.zeros((2, 24, 24, 3)), np.array([0, 1])
    collected = collect_logits(tiny_cascade, [(images, labels)], verbose=False)
    assert collected.madds == tuple(
        row.madds for row in tiny_cascade.profile(resolution=24)
    )
    larger = np.zeros((2, 32, 32, 3))
    for data, match in (
        ([(images, labels), (larger, labels)], "have the same size"),
        ([(images, labels[:1])], "Batch 1 of `data`.*2 images, 1 labels"),
        ([(images[:0], labels[:0])], "at least one image"),
    ):
        with pytest.raises(ValueError, match=match):
            collect_logits(tiny_cascade, data, verbose=False)
    for point in (
        OperatingPoint(exit=0, resolution=16),
        OperatingPoint(resolution=32),
    ):
        with pytest.raises(ValueError, match="must be exits from 0 to 2"):
            collect_logits(tiny_cascade, [(images, labels)], [point], verbose=False)


def _rest(collected):
    return collected.labels, collected.madds, collected.names


def test_the_smallest_budget_is_in_the_message():
    collected = draw(50)
    costs = (13_412_345, 20_000_000, 30_000_000)
    collected = PointLogits(collected.logits, collected.labels, costs, collected.names)
    with pytest.raises(ValueError, match="from 13,412,345, .*smallest possible budget"):
        calibrate(collected, max_madds=10e6)
    thresholds = calibrate(collected, max_madds=np.int64(13_412_345))
    assert cost(collected, thresholds) == 13_412_345


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"no zip file"])
def test_broken_logits_are_refused_by_name(tmp_path, content):
    path = tmp_path / "broken.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="broken.npz"):
        PointLogits.load(path)


# === BatchNormalization ===


def test_labels_are_ignored(tiny, batch):
    images, _ = batch
    statistics = []
    for data in (
        [images],
        [(images,)],
        [(images, np.eye(5))],
        [(images, ["a"] * 8, "weights")],
    ):
        inference.calibrate_batch_norm(tiny, data, verbose=False)
        statistics.append([v.numpy() for v in tiny.non_trainable_variables])
    for other in statistics[1:]:
        for first, second in zip(statistics[0], other, strict=True):
            np.testing.assert_array_equal(first, second)
    for bad, message in (
        ([], "no batches"),
        ([images[0]], r"shape \(batch, height, width, 3\).*\(32, 32, 3\)"),
        ([{"image": images}], "a dict with the keys"),
    ):
        with pytest.raises(ValueError, match=message):
            inference.calibrate_batch_norm(tiny, bad, verbose=False)


def test_backends_without_compilation_are_refused(tiny, batch, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    for call in (
        lambda: inference.measure_latency(tiny),
        lambda: inference.collect_logits(tiny, [batch]),
        lambda: inference.calibrate_batch_norm(tiny, [batch]),
    ):
        with pytest.raises(RuntimeError, match="needs the TensorFlow or JAX backend"):
            call()


# === Latency and the query table ===


def test_latency_arguments(tiny):
    points = tiny.operating_points[2:]
    ms = inference.measure_latency(tiny, points, np.int64(2), repeats=np.int64(1))
    assert list(ms) == ["r16"] and 0 < ms["r16"] < 1e4
    for kwargs, message in (
        ({"points": []}, "`points` must hold at least one"),
        ({"points": ["r16"]}, "`points` must hold at least one"),
        ({"batch_size": 0}, "`batch_size` must be a positive integer"),
        ({"batch_size": 1.5}, "`batch_size` must be a positive integer"),
        ({"repeats": True}, "`repeats` must be a positive integer"),
        ({"data": []}, "`data` must be None for a network without detections"),
    ):
        with pytest.raises(ValueError, match=message):
            inference.measure_latency(tiny, **kwargs)
    with pytest.raises(TypeError, match="`model` must be a network"):
        inference.measure_latency(keras.Sequential())
    with pytest.raises(ValueError, match="`points` must hold at least one"):
        collect_logits(tiny, [], [])


ROW = {
    "name": "r32",
    "accuracy": 0.5,
    "madds": 100,
    "ms": {"1": 2.0},
    "resolution": 32,
    "width": None,
    "exit": None,
    "thresholds": None,
}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"accuracy": float("nan")}, "NaN"),
        ({"accuracy": 1.5}, r"`accuracy` must be a number in \[0, 1\].*1.5"),
        ({"accuracy": True}, "`accuracy` must be a number"),
        ({"accuracy": "0.9"}, "`accuracy` must be a number"),
        ({"madds": -1}, "`madds` must be a finite number of at least 0.*-1"),
        ({"ms": {"1": -2.0}}, "`ms` must be a finite number of at least 0"),
        ({"ms": {"0": 2.0}}, "`batch size` must be a positive integer"),
        ({"ms": [2.0]}, "`ms` must be"),
        ({"name": 5}, "`name` must be"),
        ({"thresholds": [0.5, "1"]}, r"`values\[1\]` must be a number"),
        ({"resolution": -32}, "`resolution` must be"),
        ({"extra": 1}, "must have the keys"),
    ],
)
def test_untrusted_tables(tmp_path, change, message):
    path = tmp_path / "table.json"
    path.write_text(json.dumps({"rows": [ROW], "fingerprint": "abc"}))
    table = inference.QueryTable.load(path)
    assert table.best(max_madds=100).ms == {1: 2.0}
    path.write_text(json.dumps({"rows": [ROW | change], "fingerprint": "abc"}))
    with pytest.raises(ValueError, match=f"(?s)table.json.*{message}"):
        inference.QueryTable.load(path)


@pytest.mark.parametrize(
    "content", [[], {"rows": 5, "fingerprint": "a"}, {"rows": [ROW], "fingerprint": 5}]
)
def test_files_that_are_not_tables(tmp_path, content):
    (tmp_path / "table.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="table.json.*not hold a valid query table"):
        inference.QueryTable.load(tmp_path / "table.json")


def test_bad_arguments_of_the_measurement(tiny, tiny_cascade, batch, held_out):
    def measure(model, **kwargs):
        return inference.QueryTable.measure(model, [batch], verbose=False, **kwargs)

    for kwargs, message in (
        ({"batch_sizes": ()}, "`batch_sizes` must hold at least one"),
        ({"batch_sizes": (1.0,)}, "`batch_sizes` must be a positive integer"),
        ({"repeats": 0}, "`repeats` must be a positive integer"),
        ({"budgets": 0}, "`budgets` must be a positive integer"),
        ({"resolutions": ()}, "`resolutions` must hold at least one"),
        ({"held_out": held_out}, "`held_out` must be None"),
    ):
        with pytest.raises(ValueError, match=message):
            measure(tiny, **kwargs)
    with pytest.raises(ValueError, match="`resolutions` must be None"):
        measure(tiny_cascade, resolutions=(32,))
    with pytest.raises(TypeError, match="`model` must be a network"):
        measure(keras.Sequential())
