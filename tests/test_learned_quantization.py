"""Quantizers of LQ-Nets against a reference in NumPy."""

import itertools

import numpy as np
import pytest

from keras_resadapt import layers
from keras_resadapt.quantization import LearnedQuantization
from keras_resadapt.quantization.learned import (
    LearnedActivations,
    LearnedWeights,
)


class Reference:
    """A basis in NumPy: its levels, rounding to them, and fitting the basis."""

    def __init__(self, basis, digits):
        self.basis = np.array(basis, "float64")
        self.digits = digits

    def levels(self):
        """Returns pairs of a level and its code, the smallest level first."""
        codes = itertools.product(self.digits, repeat=len(self.basis))
        return sorted((float(np.dot(code, self.basis)), code) for code in codes)

    def nearest(self, values):
        """Returns the level of each value, and its code."""
        levels = self.levels()
        index = np.zeros(values.shape, int)
        for (low, _), (high, _) in zip(levels, levels[1:]):
            index += values > (low + high) / 2
        rounded = np.array([level for level, _ in levels])[index]
        codes = np.array([code for _, code in levels])[index]
        return rounded, codes

    def refit(self, values, ridge=1e-4, factor=0.9):
        """Runs a training step, and returns the values rounded before it."""
        rounded, codes = self.nearest(values.ravel())
        gram = codes.T @ codes + ridge * np.eye(len(self.basis))
        fitted = np.linalg.solve(gram, codes.T @ values.ravel())
        self.basis = factor * self.basis + (1 - factor) * fitted
        return rounded.reshape(values.shape)


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_weights_follow_the_reference(bits):
    rng = np.random.default_rng(bits)
    shape = (3, 3, 4, 5)
    kernels = rng.normal(0, 0.3, (6, *shape)).astype("float32")
    quantizer = LearnedWeights(bits)
    quantizer.build(shape)
    start = 0.6745 * np.sqrt(2 / (3 * 3 * 5)) / 2 ** (bits - 1) * 2.0 ** np.arange(bits)
    np.testing.assert_allclose(
        quantizer.basis, np.tile(start[:, None], (1, 5)), rtol=1e-6
    )
    references = [Reference(start, (-1, 1)) for _ in range(5)]
    for kernel in kernels:
        outputs = quantizer(kernel, kernel, training=True)
        expected = np.stack(
            [r.refit(kernel[..., c]) for c, r in enumerate(references)], -1
        )
        np.testing.assert_allclose(outputs, expected, atol=1e-5)
        np.testing.assert_allclose(
            quantizer.basis,
            np.stack([r.basis for r in references], 1),
            atol=1e-5,
        )
    before = np.array(quantizer.basis)
    outputs = np.array(quantizer(kernel, kernel))
    expected = [r.nearest(kernel[..., c])[0] for c, r in enumerate(references)]
    np.testing.assert_allclose(outputs, np.stack(expected, -1), atol=1e-5)
    np.testing.assert_array_equal(quantizer.basis, before)
    for c in range(5):
        assert len(np.unique(outputs[..., c].round(5))) <= 2**bits


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_activations_follow_the_reference(bits):
    rng = np.random.default_rng(bits)
    quantizer = LearnedActivations(bits)
    quantizer.build()
    start = 0.6745 * 2 / (2**bits - 1) * 2.0 ** np.arange(bits)
    np.testing.assert_allclose(quantizer.state[0], start, rtol=1e-6)
    reference = Reference(start, (0, 1))
    for _ in range(6):
        x = np.maximum(rng.normal(0, 1.5, (4, 5, 6, 7)), 0).astype("float32")
        expected = reference.refit(x)
        np.testing.assert_allclose(quantizer(x, training=True), expected, atol=1e-5)
        np.testing.assert_allclose(quantizer.state[0], reference.basis, atol=1e-5)
    assert int(quantizer.batches) == 6
    before = np.array(quantizer.state[0])
    np.testing.assert_allclose(quantizer(x), reference.nearest(x)[0], atol=1e-5)
    np.testing.assert_array_equal(quantizer.state[0], before)


def test_gradients_pass_straight_through():
    import tensorflow as tf

    rng = np.random.default_rng(0)
    kernel = tf.constant(rng.normal(0, 1, (3, 3, 2, 4)), tf.float32)
    weights = LearnedWeights(2)
    weights.build(kernel.shape)
    upstream = tf.constant(rng.normal(0, 1, kernel.shape), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        loss = tf.reduce_sum(weights(kernel, kernel, training=True) * upstream)
    np.testing.assert_array_equal(tape.gradient(loss, kernel), upstream)

    x = tf.constant([0.0, 0.3, 1.2, 2.0, 5.0])
    activations = LearnedActivations(2)
    activations.build()
    top = float(np.sum(activations.state[0]))  # 1.349
    upstream = tf.constant([1.0, 2.0, 3.0, 4.0, 5.0])
    for training in (True, False):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(activations(x, training=training) * upstream)
        np.testing.assert_array_equal(
            tape.gradient(loss, x), np.where(x <= top, upstream, 0)
        )


def test_a_basis_that_no_value_uses_stays_finite():
    quantizer = LearnedActivations(2)
    quantizer.build()
    for _ in range(3):
        outputs = quantizer(np.zeros((8, 4), "float32"), training=True)
    assert np.all(np.array(outputs) == 0)
    assert np.isfinite(np.array(quantizer.state[0])).all()


def test_fitting_to_a_trained_kernel_lowers_the_error():
    rng = np.random.default_rng(0)
    kernel = rng.normal(0, 7.0, (3, 3, 8, 4)).astype("float32")
    quantizer = LearnedWeights(2)
    quantizer.build(kernel.shape)
    quantizer.fit(kernel)
    error = np.mean((np.array(quantizer(kernel, kernel)) - kernel) ** 2)
    # The best four levels for a normal distribution leave 0.1175 of its variance.
    assert error < 0.14 * np.mean(kernel**2)


def test_calibration_fits_a_basis():
    rng = np.random.default_rng(0)
    quantizer = LearnedActivations(2)
    quantizer.build()
    for _ in range(2):
        x = np.maximum(rng.normal(0, 7.0, (64, 500)), 0).astype("float32")
        quantizer.calibrate(x)
    reference = Reference(np.array(quantizer.state[0]), (0, 1))
    reference.refit(x, factor=0)  # leaves it where it is
    np.testing.assert_allclose(quantizer.state[0], reference.basis, rtol=0.03)
    error = np.mean((np.array(quantizer(x)) - x) ** 2)
    assert error < 0.1 * np.mean(x**2)


def test_what_the_scheme_leaves_in_float():
    scheme = LearnedQuantization(2, 2)
    made = scheme.layers(layers.LayerSet())
    assert type(made.first().conv(8, 3)) is layers.Conv2D
    assert type(made.dense(8)) is layers.Dense
    assert made.conv(8, 3).weight_quantizer.bits == 2
    assert type(made.junction()) is layers.Activation
    assert made.activation("relu").quantizer.bits == 2
    only_weights = LearnedQuantization(2, 32).layers(layers.LayerSet())
    assert type(only_weights.activation("relu")) is layers.Activation


@pytest.mark.parametrize(
    "arguments",
    [{"weight_bits": 5}, {"activation_bits": 8}, {"weight_bits": True}],
)
def test_bits_that_it_does_not_know(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"`{name}` of `LearnedQuantization`"):
        LearnedQuantization(**arguments)


def test_signed_activations_are_named():
    made = LearnedQuantization(2, 2).layers(layers.LayerSet())
    with pytest.raises(ValueError, match="'stage2_out' has no quantized form"):
        made.activation(None, name="stage2_out")
