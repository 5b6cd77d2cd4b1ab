"""Variants of the papers' ablations, and the combination of both families."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_tiny, randomize

import keras_resadapt
from keras_resadapt import OperatingPoint, inference, layers, training
from keras_resadapt.points import DrawnResolution, DrawnWidth


def make_private(**kwargs):
    """A MutualNet with private BatchNormalization."""
    return keras_resadapt.MutualMobileNetV1(
        5,
        resolutions=(32, 24, 16),
        depths=(1, 1),
        filters=(32, 64),
        private_bn=True,
        **kwargs,
    )


@pytest.mark.slow
def test_parallel_training_with_shared_normalization(batch, tmp_path):
    """RS-Net, figure 4, left."""
    shared, private = make_tiny(private_bn=False), make_tiny()
    per_branch = sum(v.path.endswith("gamma") for v in private.variables)
    assert sum(v.path.endswith("gamma") for v in shared.variables) == per_branch / 3
    randomize(shared)
    points = [OperatingPoint(r) for r in (32, 24, 16)]
    assert list(shared.operating_points) == points
    shared.compile(training.SGD(0.05), metrics=["accuracy"])
    history = shared.fit(*batch, epochs=20, verbose=0).history
    assert history["loss"][-1] < 0.8 * history["loss"][0]
    assert {"r16_accuracy", "ensemble_accuracy"} <= set(history)
    shared.save(tmp_path / "shared.keras")
    copy = keras.saving.load_model(tmp_path / "shared.keras")
    np.testing.assert_allclose(copy(batch[0]), shared(batch[0]), atol=1e-5)
    shared.save_weights(str(tmp_path / "w.weights.h5"))
    with pytest.raises(ValueError, match="private_bn=False.*private_bn=True"):
        private.load_weights(str(tmp_path / "w.weights.h5"))


@pytest.mark.slow
@pytest.mark.parametrize("crops", ["one", "each"])
def test_equal_resolutions(crops, batch, tmp_path):
    """RS-Net, table 6: single-resolution, with multi-crop or single-crop."""
    keras.utils.set_random_seed(0)
    model = randomize(make_tiny(resolutions=(32, 32)))
    names = ["r32_branch0", "r32_branch1"]
    assert [point.name for point in model.operating_points] == names
    images, labels = batch
    views = (images,) * 2
    if crops == "each":
        views = tuple(np.roll(images, shift, axis=2) for shift in (0, 3))
    outputs = model(views)
    assert list(outputs) == [*names, "ensemble"]
    # Each branch has its own BatchNormalization.
    for point, x in zip(model.operating_points, views):
        np.testing.assert_allclose(
            outputs[point.name], model.logits(x, point), rtol=1e-4, atol=1e-4
        )
    assert np.abs(outputs[names[0]] - outputs[names[1]]).max() > 1e-3
    # Images without a point run in the first branch.
    np.testing.assert_allclose(model(views[0]), outputs[names[0]], rtol=1e-4, atol=1e-4)

    model.compile(training.SGD(0.05), metrics=["accuracy"])
    data = images if crops == "one" else None
    if data is None:
        data = tf.data.Dataset.from_tensors((views, labels))
        history = model.fit(data, epochs=20, verbose=0).history
    else:
        history = model.fit(data, labels, epochs=20, verbose=0).history
    assert history["loss"][-1] < 0.8 * history["loss"][0]
    assert {f"{name}_accuracy" for name in names} <= set(history)
    model.save(tmp_path / "equal.keras")
    copy = keras.saving.load_model(tmp_path / "equal.keras")
    for point in copy.operating_points:
        np.testing.assert_allclose(
            copy.logits(images, point), model.logits(images, point), atol=1e-5
        )
    with pytest.raises(ValueError, match="`point` must be one of"):
        model.logits(images, OperatingPoint(32, branch=3))


def test_private_parameters_of_any_width():
    """Against NumPy: gamma and beta of the resolution, the first channels."""
    layer = layers.PrivateSlimmableBatchNormalization((32, 16), 1.0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 3, 3, 6)).astype("float32")
    layer.build((None, None, None, 8))
    gamma, beta = rng.normal(size=(2, 2, 8)).astype("float32")
    layer.gamma.assign(gamma)
    layer.beta.assign(beta)
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    for index, resolution in enumerate((32, 16)):
        expected = (x - mean) / np.sqrt(variance + 1e-5)
        expected = expected * gamma[index, :6] + beta[index, :6]
        for r in (resolution, DrawnResolution(tf.constant(resolution))):
            outputs = layer(x, resolution=r, width=0.75, training=True)
            np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_private_normalization_with_slimmable_widths(batch, tmp_path):
    keras.utils.set_random_seed(0)
    model = make_private()
    model.compile(training.SGD(0.05), metrics=["accuracy"])
    norm = model.backbone.stages[0][0].bn
    before = norm.gamma.numpy()
    history = model.fit(*batch, batch_size=4, epochs=6, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    # All resolutions were trained, each in its own row.
    moved = np.abs(norm.beta.numpy()).max(axis=1)
    assert before.shape == (3, norm.moving_mean.shape[0]) and (moved > 0).all()

    points = [OperatingPoint(16, 0.5), OperatingPoint(24, 1.0)]
    inference.calibrate_batch_norm(model, [batch[0]], points, verbose=False)
    x = layers.resize_bilinear(batch[0], 16)
    expected = model.logits(x, points[0])
    assert np.isfinite(expected).all()
    model.save(tmp_path / "private.keras")
    copy = keras.saving.load_model(tmp_path / "private.keras")
    assert copy.private_bn and set(copy.operating_points) == set(model.operating_points)
    np.testing.assert_allclose(copy.logits(x, points[0]), expected, atol=1e-5)


def test_gradients_reach_the_drawn_resolution_alone(batch):
    model = make_private()
    point = OperatingPoint(
        DrawnResolution(tf.constant(24)), DrawnWidth(tf.constant(0.5, tf.float64))
    )
    norm = model.backbone.stages[0][0].bn
    x = layers.resize_bilinear(batch[0], 24)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(x, point=point, training=True) ** 2)
    gradient = tape.gradient(loss, norm.beta.value)
    rows = np.abs(gradient).max(axis=1)
    assert rows[1] > 0 and rows[0] == rows[2] == 0
