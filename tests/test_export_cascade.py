"""The exported cascade: the same exits inside the graph as in Python."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_tiny_cascade, randomize
from test_adaptive import (
    fails_beyond_the_first,  # noqa: F401, a fixture
    images,  # noqa: F401, another
)

from keras_resadapt import export
from keras_resadapt.data import preprocess_encoded
from keras_resadapt.inference import (
    AdaptivePredictor,
    Thresholds,
    collect_logits,
)

pytestmark = pytest.mark.slow  # the export takes most of the time

SIGNATURES = [
    "exit0",
    "exit1",
    "exit2",
    "adaptive",
    "adaptive_default",
    "serving_default",
]


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(1)
    return randomize(make_tiny_cascade())


@pytest.fixture(scope="module")
def thresholds(model, images):  # noqa: F811
    """Thresholds at which about a third of the images stops at each exit."""
    labels = np.arange(len(images)) % 5
    first, second, _ = collect_logits(
        model, [(images, labels)], verbose=False
    ).confidence
    values = np.quantile(first, 2 / 3), np.median(second)
    return Thresholds(values, (1.0, 0.9, 1.1))


@pytest.fixture(scope="module")
def path(model, thresholds, tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "shapes" / "1"
    export.export_saved_model(
        model, path, list("abcde"), thresholds=thresholds, crop_fraction=1.0
    )
    return path


@pytest.fixture(scope="module")
def signatures(path):
    return tf.saved_model.load(str(path)).signatures


def test_names(signatures):
    encoded = [f"{name}_encoded" for name in SIGNATURES]
    assert sorted(signatures) == sorted(SIGNATURES + encoded)
    inputs = signatures["adaptive"].structured_input_signature[1]
    assert inputs["thresholds"].shape == (2,)
    assert inputs["images"].shape == (None, 32, 32, 3)


def test_exits(model, signatures, images):  # noqa: F811
    for point in model.operating_points:
        got = signatures[point.name](images=images[:9])
        expected = model.logits(images[:9], point)
        np.testing.assert_allclose(got["logits"], expected, rtol=1e-4, atol=1e-5)
        assert set(got) == {"logits", "probabilities", "classes"}


@pytest.mark.parametrize("kind", ["easy", "hard", "mixed"])
def test_adaptive_equals_python(
    model,
    thresholds,
    signatures,
    images,  # noqa: F811
    kind,
):
    values = {"easy": (0, 0), "hard": (1, 1), "mixed": thresholds.values}[kind]
    thresholds = Thresholds(values, thresholds.temperatures)
    expected = AdaptivePredictor(model, thresholds).predict(images)
    assert len(set(expected.exits)) == (3 if kind == "mixed" else 1)
    for rows in (257, 1, 0):
        got = signatures["adaptive"](
            images=images[:rows], thresholds=tf.constant(values, tf.float32)
        )
        _same(got, expected, rows)
        if kind == "mixed":
            for name in ("adaptive_default", "serving_default"):
                _same(signatures[name](images=images[:rows]), expected, rows)


def _same(got, expected, rows):
    np.testing.assert_array_equal(got["exits"], expected.exits[:rows])
    np.testing.assert_array_equal(got["madds"], expected.madds[:rows])
    np.testing.assert_allclose(
        got["probabilities"], expected.probabilities[:rows], rtol=1e-4
    )
    names = [b"abcde"[c : c + 1] for c in expected.classes[:rows]]
    assert got["classes"].numpy()[:, :1].ravel().tolist() == names
    np.testing.assert_allclose(
        got["probabilities"], tf.nn.softmax(got["logits"]), rtol=1e-5
    )


def test_adaptive_encoded(signatures, images):  # noqa: F811
    files = [tf.io.encode_png(tf.cast(image, tf.uint8)).numpy() for image in images[:5]]
    pixels = tf.stack([preprocess_encoded(file, 32, 1.0) for file in files])
    expected = signatures["adaptive_default"](images=pixels)
    values = tf.constant([1.0, 0.0])
    for got, expected in (
        (
            signatures["adaptive_default_encoded"](images=tf.constant(files)),
            signatures["adaptive_default"](images=pixels),
        ),
        (
            signatures["adaptive_encoded"](
                images=tf.constant(files), thresholds=values
            ),
            signatures["adaptive"](images=pixels, thresholds=values),
        ),
    ):
        np.testing.assert_array_equal(got["exits"], expected["exits"])
        np.testing.assert_allclose(
            got["logits"], expected["logits"], rtol=1e-4, atol=1e-5
        )


def test_a_stage_without_images_does_not_run(
    fails_beyond_the_first,  # noqa: F811
    tmp_path,
    images,  # noqa: F811
):
    export.export_saved_model(
        fails_beyond_the_first,
        tmp_path / "1",
        encoded=False,
        warmup_batch_sizes=(),
    )
    adaptive = tf.saved_model.load(str(tmp_path / "1")).signatures["adaptive"]
    easy = adaptive(images=images[:4], thresholds=tf.zeros(2))
    assert easy["exits"].numpy().tolist() == [0] * 4
    with pytest.raises(tf.errors.InvalidArgumentError, match="too far"):
        adaptive(images=images[:4], thresholds=tf.ones(2))


@pytest.mark.parametrize("bad", [1.5, -0.1, np.nan])
def test_bad_requests(signatures, images, bad):  # noqa: F811
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[0, 1\]"):
        signatures["adaptive"](images=images[:2], thresholds=tf.constant([0.5, bad]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="finite"):
        signatures["adaptive_default"](images=images[:2] * np.nan)


@pytest.mark.parametrize("number", [0, 1, 3])
def test_wrong_number_of_thresholds(signatures, images, number):  # noqa: F811
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=rf"thresholds \[{number}\].*\[2\]"
    ):
        signatures["adaptive"](
            images=tf.constant(images[:2]), thresholds=tf.zeros(number)
        )


def test_images_of_another_size_are_refused(signatures, images):  # noqa: F811
    for name, kwargs in (
        ("adaptive", {"thresholds": tf.zeros(2)}),
        ("adaptive_default", {}),
    ):
        with pytest.raises(
            tf.errors.InvalidArgumentError, match=r"\[2,16,16,3\].*\[\?,32,32,3\]"
        ):
            signatures[name](images=tf.constant(images[:2, :16, :16]), **kwargs)


def test_warmup_runs_every_signature(path):
    assert sorted(export.replay_warmup(path)) == sorted(
        SIGNATURES + [f"{name}_encoded" for name in SIGNATURES]
    )


def test_description(path, model, thresholds):
    file = path / "assets.extra" / "operating_points.json"
    description = json.loads(file.read_text())
    rows = model.profile()
    assert description["adaptive"] == {
        "exit_madds": [row.madds for row in rows],
        "default_thresholds": list(thresholds.values),
        "temperatures": list(thresholds.temperatures),
        "signatures": SIGNATURES[3:],
        "encoded_signatures": [f"{name}_encoded" for name in SIGNATURES[3:]],
    }
    assert [
        (point["name"], point["exit"], point["madds"], point["signatures"])
        for point in description["operating_points"]
    ] == [
        (f"exit{k}", k, row.standalone_madds, [f"exit{k}"])
        for k, row in enumerate(rows)
    ]


def test_frozen(model, thresholds, signatures, tmp_path, images):  # noqa: F811
    export.export_saved_model(
        model,
        tmp_path / "1",
        list("abcde"),
        thresholds=thresholds,
        encoded=False,
        freeze=True,
        points=model.operating_points[1:2],
    )
    assert sorted(export.replay_warmup(tmp_path / "1")) == sorted(
        ["exit1", *SIGNATURES[3:]]
    )
    frozen = tf.saved_model.load(str(tmp_path / "1")).signatures
    for name in ("exit1", "adaptive_default", "serving_default"):
        for rows in (257, 0):
            got = frozen[name](images=images[:rows])
            expected = signatures[name.replace("serving_default", "adaptive_default")](
                images=images[:rows]
            )
            assert set(got) == set(expected)
            for key in ("logits", "probabilities"):
                np.testing.assert_allclose(
                    got[key], expected[key], rtol=1e-4, atol=1e-5
                )
        if "exits" in got:
            np.testing.assert_array_equal(got["exits"], expected["exits"])


def test_weights_are_stored_once(path, model):
    weights = sum(w.numpy().nbytes for w in model.weights)
    stored = (path / "variables").glob("*.data-*")
    assert sum(f.stat().st_size for f in stored) < 1.05 * weights


def test_bad_thresholds(model, tiny, tmp_path):
    for bad_model, values, match in (
        (tiny, [0.5, 0.5], "`thresholds` are for cascades"),
        (model, [0.5], "needs 2 thresholds"),
        (model, [0.5, 2.0], r"in \[0, 1\]"),
        (model, Thresholds((0, 0), fingerprint="0"), "another model"),
    ):
        with pytest.raises(ValueError, match=match):
            export.export_saved_model(bad_model, tmp_path / "1", thresholds=values)
    assert not list(tmp_path.iterdir())
