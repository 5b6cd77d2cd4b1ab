"""Layers on two replicas, with shares of different sizes."""

import numpy as np
import pytest
import tensorflow as tf

from keras_resadapt import layers, training
from keras_resadapt.layers.synchronized_normalization import normalize_over_replicas
from keras_resadapt.quantization.int8 import MovingRangeActivations

NUM_IMAGES = 6


@pytest.fixture(scope="module")
def strategy():
    with training.strategy_scope("mirrored"):
        return tf.distribute.get_strategy()


def images(channels=3):
    x = np.random.default_rng(0).normal(5, 2, (NUM_IMAGES, 4, 4, channels))
    x[0] += 3  # so that the shares' statistics differ
    return x.astype("float32")


def split(strategy, x, first):
    """The first images in one replica, the rest in the other."""
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(
            x[:first] if context.replica_id_in_sync_group == 0 else x[first:]
        )
    )


def values(per_replica, strategy):
    return np.concatenate(strategy.experimental_local_results(per_replica))


NORMS = {
    "plain": (lambda: layers.BatchNormalization(momentum=0.5), {}),
    "switchable": (
        lambda: layers.SwitchableBatchNormalization((32, 16), momentum=0.5),
        {"resolution": 16},
    ),
    "slimmable": (
        lambda: layers.SlimmableBatchNormalization(32, 1.0, momentum=0.5),
        {"resolution": 32, "width": 1.0},
    ),
}


@pytest.mark.parametrize("first", [3, 1, 6])
@pytest.mark.parametrize("kind", NORMS)
def test_batch_normalization_of_two_replicas(kind, first, strategy):
    make, axes = NORMS[kind]
    x = images()
    results = []
    for where in (None, strategy):
        with where.scope() if where else tf.init_scope():
            norm = make()
            norm.build(x.shape)

        @tf.function
        def run(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = norm(x, **axes, training=True)
                loss = tf.reduce_sum(y**3)
            return y, tape.gradient(loss, x)

        if where is None:
            y, gradient = run(tf.constant(x))
        else:
            results_of = where.run(run, [split(where, x, first)])
            y, gradient = (values(part, where) for part in results_of)
        results.append([y, gradient, *map(np.array, norm.non_trainable_variables)])
    for one, two in zip(*results):
        np.testing.assert_allclose(one, two, rtol=2e-4, atol=2e-4)


def test_a_part_of_the_channels(strategy):
    """The sub-networks of a slimmable network."""
    x = images(2)
    with strategy.scope():
        norm = layers.SlimmableBatchNormalization(32, 1.0)
        norm.build((None, 4, 4, 3))

    @tf.function
    def run(x):
        return norm(x, resolution=16, width=0.5, training=True)

    y = values(strategy.run(run, [split(strategy, x, 1)]), strategy)
    expected = (x - x.mean((0, 1, 2))) / x.std((0, 1, 2))
    np.testing.assert_allclose(y, expected, atol=2e-3)
    np.testing.assert_array_equal(norm.moving_mean, 0)


@pytest.mark.parametrize("first", [3, 1, 6])
def test_activation_ranges_of_two_replicas(first, strategy):
    x = images()
    x[1] -= 130
    results = []
    for where in (None, strategy):
        with where.scope() if where else tf.init_scope():
            quantizer = MovingRangeActivations()
            quantizer.build(x.shape)

        @tf.function
        def run(x):
            return quantizer(x, training=True)

        for factor in (1, 0.5, 2):
            if where is None:
                y = run(tf.constant(x * factor))
            else:
                parts = split(where, (x * factor).astype("float32"), first)
                y = values(where.run(run, [parts]), where)
        results.append([y, *map(np.array, (*quantizer.state, quantizer.batches))])
    for one, two in zip(*results):
        np.testing.assert_allclose(one, two, rtol=1e-6)
    low, high = results[0][1:3]
    assert low < -100 < 5 < high


def test_in_the_scope_but_in_no_replica(strategy):
    x = images()
    with strategy.scope():
        norm, quantizer = layers.BatchNormalization(), MovingRangeActivations()
        y = norm(x, training=True)
        quantizer(x, training=True)
    np.testing.assert_allclose(y, (x - x.mean((0, 1, 2))) / x.std((0, 1, 2)), atol=1e-3)
    np.testing.assert_allclose(quantizer.state[1], x.max(), rtol=1e-5)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 2e-6), ("bfloat16", 1e-2)])
def test_gradients_of_synchronized_normalization(dtype, tolerance, strategy):
    """Gradients of inputs and parameters, against the formula in NumPy."""
    x, upstream = images(), np.random.default_rng(1).normal(size=(NUM_IMAGES, 4, 4, 3))
    upstream[2] += 1
    x, upstream = (np.array(tf.cast(a, dtype), "float64") for a in (x, upstream))
    gamma, beta = np.array([0.0, 1.5, -2]), np.array([1.0, 0, 3])
    shift, epsilon = np.array([5.0, 4, 6]), 1e-3

    @tf.function
    def run(x, upstream):
        x = tf.cast(x, dtype)
        parameters = [tf.constant(p, tf.float32) for p in (gamma, beta)]
        with tf.GradientTape() as tape:
            tape.watch([x, parameters])
            y, mean, variance = normalize_over_replicas(
                x, *parameters, tf.constant(shift, tf.float32), epsilon
            )
        of_x, *of_parameters = tape.gradient(
            y, [x, *parameters], tf.cast(upstream, dtype)
        )
        assert of_x.dtype == y.dtype == dtype
        return (tf.cast(y, "float32"), tf.cast(of_x, "float32")), (
            *(mean[None], variance[None]),
            *(gradient[None] for gradient in of_parameters),
        )

    shares = [split(strategy, part.astype("float32"), 2) for part in (x, upstream)]
    images_of, vectors = strategy.run(run, shares)
    y, of_x = (values(part, strategy) for part in images_of)
    mean, variance, of_gamma, of_beta = (values(part, strategy) for part in vectors)

    axes, count = (0, 1, 2), x.size / 3
    rate = 1 / np.sqrt(x.var(axes) + epsilon)
    normalized = (x - x.mean(axes)) * rate
    product = upstream * normalized
    expected_of_x = (
        gamma
        * rate
        * (upstream - upstream.mean(axes) - normalized * product.mean(axes))
    )
    for received, expected in (
        (y, gamma * normalized + beta),
        (of_x, expected_of_x),
        (mean[0], x.mean(axes)),
        (variance[1], x.var(axes) * count / (count - 1)),
        (of_gamma.sum(0), product.sum(axes)),
        (of_beta.sum(0), upstream.sum(axes)),
    ):
        largest = np.abs(expected).max()
        np.testing.assert_allclose(received, expected, atol=tolerance * largest)


def test_channels_that_are_unknown_before_the_step(strategy):
    """A width that is drawn in each step."""
    x = images()

    @tf.function
    def normalize(x):
        x = tf.compat.v1.placeholder_with_default(x, (None, 4, 4, None))
        ones = tf.ones(tf.shape(x)[-1:])
        return normalize_over_replicas(x, ones, ones, ones, 1e-3)[0]

    y = values(strategy.run(normalize, [split(strategy, x, 2)]), strategy)
    expected = 1 + (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-3)
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_run_eagerly(strategy):
    x = images()
    with strategy.scope():
        norm = layers.BatchNormalization()
        norm.build(x.shape)

    def run(x):
        with tf.GradientTape() as tape:
            y = norm(x, training=True)
            loss = tf.reduce_sum(y**2)
        return y, tape.gradient(loss, norm.beta.value)[None]

    y, gradient = strategy.run(run, [split(strategy, x, 2)])
    y, gradient = values(y, strategy), values(gradient, strategy).sum(0)
    np.testing.assert_allclose(y, (x - x.mean((0, 1, 2))) / x.std((0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(gradient, 2 * y.sum((0, 1, 2)), atol=1e-2)
