"""The predictor that stops at the first confident exit."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_tiny_cascade, randomize

import keras_resadapt
from keras_resadapt import inference
from keras_resadapt.inference import AdaptivePredictor, Thresholds
from keras_resadapt.inference.storing.fingerprint import model_fingerprint
from keras_resadapt.layers import resize_bilinear


@pytest.fixture(scope="module")
def cascade():
    keras.utils.set_random_seed(1)
    return randomize(make_tiny_cascade())


@pytest.fixture(scope="module")
def images():
    """Smooth, noisy, bright and dark images, so that confidences differ."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, (257, 32, 32, 3)) * rng.uniform(1, 90, (257, 1, 1, 1))
    images = rng.uniform(0, 255, (257, 1, 1, 3)) + noise
    return images.clip(0, 255).astype("float32")


@pytest.fixture(scope="module")
def collected(cascade, images):
    labels = np.arange(257) % 5
    return inference.collect_logits(cascade, [(images, labels)], verbose=False)


@pytest.fixture(scope="module")
def mixed(collected):
    """Thresholds at which about a third of the images stops at each exit."""
    first, second, _ = collected.confidence
    return [float(np.quantile(first, 2 / 3)), float(np.median(second))]


@pytest.mark.parametrize("thresholds", ["easy", "hard", "mixed"])
def test_equals_the_simulation(cascade, images, collected, mixed, thresholds):
    values = {"easy": [0, 0], "hard": [1, 1], "mixed": mixed}[thresholds]
    predictor = AdaptivePredictor(cascade, values, batch_size=100)
    expected = inference.simulate(collected, values)
    left = set(expected.exits.tolist())
    assert left == {"easy": {0}, "hard": {2}, "mixed": {0, 1, 2}}[thresholds]
    for rows in (257, 1, 0):
        got = predictor.predict(images[:rows])
        np.testing.assert_array_equal(got.exits, expected.exits[:rows])
        np.testing.assert_array_equal(got.classes, expected.classes[:rows])
        np.testing.assert_array_equal(got.madds, expected.madds[:rows])
        np.testing.assert_allclose(
            got.probabilities, expected.probabilities[:rows], rtol=1e-4
        )
        assert got.probabilities.shape == (rows, 5)


def test_temperatures(cascade, images, collected, mixed):
    thresholds = Thresholds(tuple(mixed), (0.8, 1.3, 2.0))
    got = AdaptivePredictor(cascade, thresholds).predict(images)
    expected = inference.simulate(collected, thresholds)
    np.testing.assert_array_equal(got.exits, expected.exits)
    np.testing.assert_allclose(got.probabilities, expected.probabilities, rtol=1e-4)


@keras.saving.register_keras_serializable("test_adaptive")
class FailsBeyondTheFirst(keras_resadapt.RANet):
    """A cascade that fails as soon as anything beyond the first exit runs."""

    def extend(self, features, exit, point, training=None):
        features = super().extend(features, exit, point, training)
        if exit and tf.is_tensor(features["x"]):
            check = tf.debugging.Assert(tf.constant(False), ["too far"])
            with tf.control_dependencies([check]):
                features = keras.tree.map_structure(tf.identity, features)
        return features


@pytest.fixture(scope="module")
def fails_beyond_the_first():
    return FailsBeyondTheFirst(
        5,
        2,
        1,
        1,
        scale_list=(1, 2),
        channels=8,
        growth_rate=8,
        growth_factors=(2, 1),
        bottleneck_factors=(2, 1),
    )


@pytest.mark.slow
def test_a_stage_without_images_does_not_run(fails_beyond_the_first, images):
    predictor = AdaptivePredictor(fails_beyond_the_first, [0, 0])
    assert (predictor.predict(images[:9]).exits == 0).all()
    predictor = AdaptivePredictor(fails_beyond_the_first, [1, 1])
    with pytest.raises(tf.errors.InvalidArgumentError, match="too far"):
        predictor.predict(images[:9])


@pytest.mark.slow
def test_nan_is_not_confident(images):
    keras.utils.set_random_seed(1)
    model = make_tiny_cascade()
    broken = next(v for v in model.weights if v.path.endswith("bias"))
    broken.assign(np.full(broken.shape, np.nan))  # the first exit's classifier
    prediction = AdaptivePredictor(model, [0, 0]).predict(images[:3])
    assert (prediction.exits == 1).all()
    bad = images[:3].copy()
    bad[1, 5, 5, 0] = np.nan
    with pytest.raises(ValueError, match=r"`images`.*finite.*\[1\]"):
        AdaptivePredictor(model, [0, 0]).predict(bad)
    for weight in model.weights:
        if weight.path.endswith("bias"):  # of all classifiers
            weight.assign(np.full(weight.shape, np.nan))
    with pytest.raises(ValueError, match="probabilities of .* are NaN"):
        AdaptivePredictor(model, [0, 0]).predict(images[:3])


@pytest.mark.slow
def test_saturated_confidences(images):
    """The predictor and the simulation agree, whatever the batch size."""
    keras.utils.set_random_seed(1)
    model = randomize(make_tiny_cascade())
    for weight in model.weights:
        if "classifier" in weight.path and weight.path.endswith("dense/kernel"):
            weight.assign(weight * 100)
    labels = np.arange(64) % 5
    collected = inference.collect_logits(model, [(images[:64], labels)], verbose=False)
    assert (collected.confidence[0] > 1 - 1e-6).mean() > 0.3
    for values in ([1, 1], [1 - 1e-5, 0.5]):
        expected = inference.simulate(collected, values).exits
        assert (expected == 2).all() == (values == [1, 1])
        for batch_size in (1, 64):
            predictor = AdaptivePredictor(model, values, batch_size)
            got = predictor.predict(images[:64]).exits
            np.testing.assert_array_equal(got, expected)


def test_the_fingerprint_depends_on_the_trained_weights(tiny):
    model = keras_resadapt.PointCascade(tiny)
    before = model_fingerprint(model)
    tiny.compile("sgd")
    tiny.trainable = False
    assert model_fingerprint(model) == before
    tiny.alpha.assign(tiny.alpha + 1)
    assert model_fingerprint(model) != before


def test_thresholds_travel_with_the_model(cascade, collected, tmp_path):
    thresholds = inference.calibrate(collected, max_madds=np.mean(collected.madds))
    thresholds.save(tmp_path / "thresholds.json")
    loaded = Thresholds.load(tmp_path / "thresholds.json")
    assert loaded == thresholds
    cascade.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    AdaptivePredictor(again, loaded)
    # Any further training invalidates the thresholds.
    weight = again.trainable_variables[0]
    weight.assign(weight * 1.01)
    with pytest.raises(ValueError, match="calibrated for another model"):
        AdaptivePredictor(again, loaded)
    with pytest.raises(ValueError, match="calibrated for another model"):
        other = Thresholds(loaded.values, fingerprint="0123456789abcdef")
        inference.simulate(collected, other)


@pytest.mark.parametrize(
    "values, message",
    [
        ([0.5], "needs 2 thresholds. Received: 1"),
        ([0.5, 1.5], r"in \[0, 1\].*1.5"),
        ([0.5, float("nan")], r"in \[0, 1\].*nan"),
        ([-0.1, 0.5], r"in \[0, 1\].*-0.1"),
    ],
)
def test_bad_thresholds(cascade, values, message):
    with pytest.raises(ValueError, match=message):
        AdaptivePredictor(cascade, values)


def test_bad_arguments(cascade, tiny, images, tmp_path, monkeypatch):
    with pytest.raises(TypeError, match="PointCascade"):
        AdaptivePredictor(tiny, [0.5, 0.5])
    with pytest.raises(ValueError, match="batch_size=0"):
        AdaptivePredictor(cascade, [0.5, 0.5], batch_size=0)
    for resolution in (0, -3, 32.0, "32"):
        with pytest.raises(ValueError, match="`resolution` must be"):
            AdaptivePredictor(cascade, [0, 0], resolution=resolution)
    for values in (0.5, None, [[0.5, 0.5]], "thresholds.json"):
        with pytest.raises(ValueError, match="`values"):
            AdaptivePredictor(cascade, values)
    with pytest.raises(ValueError, match="Images must have|`images` must"):
        AdaptivePredictor(cascade, [0, 0]).predict(images[:, :16])
    with pytest.raises(ValueError, match="`temperatures`"):
        Thresholds((0.5, 0.5), (1.0, 0.0, 1.0))
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="other.json.*does not hold thresholds"):
        Thresholds.load(tmp_path / "other.json")
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(RuntimeError, match="needs the TensorFlow backend"):
        AdaptivePredictor(cascade, [0.5, 0.5])
    with pytest.raises(RuntimeError, match="`measure_exit_latency` needs"):
        inference.measure_exit_latency(cascade)


@pytest.mark.parametrize(
    "values, message",
    [
        ("01", "`values` must be a sequence of numbers"),
        (["0", "1"], r"`values\[0\]` must be a number"),
        ([0.5, True], r"`values\[1\]` must be a number"),
        ([True, False], r"`values\[0\]` must be a number"),
        ({"0.5": 1}, "`values` must be a sequence of numbers"),
        ([0.5] * 5_000, "at most 1000 numbers. Received: 5000"),
        ([0.5, 10**400], r"`values\[1\]` must be"),
    ],
    ids=["string", "strings", "boolean", "booleans", "dict", "many", "huge"],
)
def test_untrusted_thresholds(tmp_path, values, message):
    with pytest.raises(ValueError, match=message):
        Thresholds(values)
    path = tmp_path / "thresholds.json"
    content = {"values": values, "temperatures": None, "fingerprint": None}
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"thresholds.json.*{message}"):
        Thresholds.load(path)


def test_thresholds_of_arrays_and_tensors():
    expected = Thresholds((0.25, 0.5), (1.0, 2.0, 3.0))
    for make in (np.array, tf.constant, lambda x: [np.float32(v) for v in x]):
        assert Thresholds(make([0.25, 0.5]), make([1.0, 2.0, 3.0])) == expected
    with pytest.raises(ValueError, match=r"`values\[0\]` must be a number"):
        Thresholds(np.array([True, False]))
    with pytest.raises(ValueError, match="`fingerprint` must be a string"):
        Thresholds((0.5,), fingerprint=5)


def test_exit_latency(cascade):
    ms = inference.measure_exit_latency(cascade, batch_size=2, repeats=3)
    assert len(ms) == 3 and (np.diff(ms, prepend=0) > 0).all()
    with pytest.raises(ValueError, match="batch_size=0"):
        inference.measure_exit_latency(cascade, batch_size=0)
    with pytest.raises(TypeError, match="must be a `Cascade`"):
        inference.measure_exit_latency(keras.Sequential())


# === RS-Net as a cascade ===


@pytest.mark.slow
def test_point_cascade(tiny, images, tmp_path):
    model = keras_resadapt.PointCascade(tiny)
    logits = model(images[:8])
    for exit, point in enumerate(reversed(tiny.operating_points)):
        lower = resize_bilinear(images[:8], point.resolution)
        expected = tiny.logits(lower, point)
        np.testing.assert_allclose(logits[f"exit{exit}"], expected, rtol=1e-5)
        alone = model.logits(images[:8], model.operating_points[exit])
        np.testing.assert_allclose(alone, expected, rtol=1e-5)
    madds = [row.madds for row in tiny.profile()][::-1]
    rows = model.profile()
    assert [row.madds for row in rows] == np.cumsum(madds).tolist()
    assert [row.standalone_madds for row in rows] == madds

    model.save(tmp_path / "cascade.keras")
    again = keras.models.load_model(tmp_path / "cascade.keras")
    first = np.max(np.array(keras.ops.softmax(logits["exit0"])), axis=-1)
    thresholds = [float(np.median(first)), 0.0]
    prediction = AdaptivePredictor(again, thresholds).predict(images[:8])
    assert sorted(prediction.exits) == [0] * 4 + [1] * 4
    with pytest.raises(ValueError, match="32 x 32 pixels"):
        model(images[:8, :16, :16])
    with pytest.raises(TypeError, match="must be an `RSNet`"):
        keras_resadapt.PointCascade(model)
