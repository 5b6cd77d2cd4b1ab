"""Losses against the equations of the papers, in NumPy."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_resadapt import losses


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def divergence(teacher, student):
    """Equation 7."""
    p, q = softmax(teacher), softmax(student)
    return np.mean(np.sum(p * np.log(p / q), -1))


@pytest.fixture
def predictions():
    """p_0, the ensemble's, and p_1 to p_3, as logits."""
    return np.random.default_rng(0).normal(0, 2, (4, 6, 5)).astype("float32")


class TestCrossEntropy:
    labels = np.array([0, 3, 4, 1, 1, 2])

    def test_equation_1(self, predictions):
        z = predictions[0]
        expected = -np.mean(np.log(softmax(z))[np.arange(6), self.labels])
        for y in (self.labels, self.labels[:, None], np.eye(5)[self.labels]):
            np.testing.assert_allclose(losses.CrossEntropy()(y, z), expected, rtol=1e-5)

    def test_label_smoothing(self, predictions):
        targets = 0.9 * np.eye(5)[self.labels] + 0.1 / 5
        expected = -np.mean(np.sum(targets * np.log(softmax(predictions[0])), -1))
        np.testing.assert_allclose(
            losses.CrossEntropy(0.1)(self.labels, predictions[0]),
            expected,
            rtol=1e-5,
        )

    @pytest.mark.parametrize("label", [-1, 5, 2**32, 2**32 + 1, 1.5, np.nan])
    def test_a_label_that_is_no_class_makes_the_loss_nan(self, label, predictions):
        y = np.array([0, 3, label, 1, 1, 2])
        for labels in (y, y[:, None]):
            loss = losses.CrossEntropy(reduction="none")(labels, predictions[0])
            assert np.isnan(loss).tolist() == [False, False, True, False, False, False]

    def test_labels_of_another_shape_are_refused(self, predictions):
        for shape in ((6, 3), (6, 1, 1), (2, 3, 5)):
            with pytest.raises(ValueError, match=r"`y_true` must be.*\(batch, 5\)"):
                losses.CrossEntropy().call(tf.zeros(shape), tf.constant(predictions[0]))

    def test_one_class(self):
        for y in (np.zeros(4), np.zeros((4, 1))):
            assert losses.CrossEntropy()(y, np.ones((4, 1))) == 0

    def test_bad_smoothing(self):
        with pytest.raises(ValueError, match="`label_smoothing`"):
            losses.CrossEntropy(1.0)


def test_ensemble_is_equation_5_and_freezes_the_logits(predictions):
    logits = [tf.Variable(z) for z in predictions[1:]]
    alpha = tf.Variable([0.5, 0.3, 0.2])
    with tf.GradientTape() as tape:
        z0 = losses.ensemble_logits(logits, alpha)
        total = tf.reduce_sum(z0**2)
    expected = np.tensordot([0.5, 0.3, 0.2], predictions[1:], 1)
    np.testing.assert_allclose(z0, expected, rtol=1e-4, atol=1e-5)
    gradients = tape.gradient(total, [alpha, *logits])
    assert gradients[0] is not None
    assert gradients[1:] == [None, None, None]


PAIRS = {  # teacher, student; 0 is the ensemble
    "none": [],
    "vanilla": [(0, 1), (0, 2), (0, 3)],
    "full": [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)],
    "no_ensemble": [(1, 2), (1, 3), (2, 3)],
    "largest_only": [(1, 2), (1, 3)],
}


@pytest.mark.parametrize("distillation", losses.DISTILLATIONS)
def test_distillation_terms(predictions, distillation):
    scale = 2 / 4 if distillation in ("full", "no_ensemble") else 1
    expected = scale * sum(
        divergence(predictions[t], predictions[s]) for t, s in PAIRS[distillation]
    )
    variables = [tf.Variable(z) for z in predictions]
    with tf.GradientTape() as tape:
        loss = losses.distillation_loss(
            variables[1:], variables[0], distillation
        ) + 0 * tf.reduce_sum(variables[0] * 0)
    np.testing.assert_allclose(loss, expected, rtol=1e-4, atol=1e-6)
    gradients = tape.gradient(loss, variables)
    students = {s for _, s in PAIRS[distillation]}
    for i, gradient in enumerate(gradients):
        moved = gradient is not None and np.abs(gradient).max() > 0
        assert moved == (i in students)


def test_sample_weights_weigh_every_term(predictions):
    weights = np.array([1, 0, 0, 0, 0, 0], "float32")
    loss = losses.distillation_loss(
        list(predictions[1:]), predictions[0], "full", weights
    )
    expected = sum(
        divergence(predictions[t, :1], predictions[s, :1]) for t, s in PAIRS["full"]
    )
    np.testing.assert_allclose(loss, 0.5 * expected / 6, rtol=1e-4)


@pytest.mark.parametrize("distillation", losses.DISTILLATIONS[1:])
def test_distillation_is_the_sum_of_its_pairs(distillation):
    """For weighted pixels, its value and gradient are those of single divergences."""
    rng = np.random.default_rng(1)
    variables = [tf.Variable(z) for z in rng.normal(0, 5, (4, 2, 3, 7)).astype("f4")]
    weights = rng.uniform(0, 2, (2, 3)).astype("f4")
    for single in (losses.Distillation(2.0), losses.AlphaDivergence()):

        def loss_of(divergence):
            with tf.GradientTape() as tape:
                logits = [tf.convert_to_tensor(v) for v in variables]
                loss = losses.distillation_loss(
                    logits[1:], logits[0], distillation, weights, divergence
                )
            gradients = tape.gradient(loss, variables, unconnected_gradients="zero")
            return np.array(loss), np.array(gradients)

        value, gradients = loss_of(single)
        expected, expected_gradients = loss_of(lambda *args: single(*args))
        np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(gradients, expected_gradients, atol=1e-6)


def test_gradients_are_those_of_log_softmax():
    rng = np.random.default_rng(2)
    teacher, student = rng.normal(0, 5, (2, 2, 3, 7)).astype("f4")
    labels = rng.integers(0, 7, (2, 3))
    one_hot = np.eye(7, dtype="f4")[labels]
    log_p = tf.nn.log_softmax(teacher)

    def gradient_of(loss):
        z = tf.Variable(student)
        with tf.GradientTape() as tape:
            value = tf.reduce_mean(loss(tf.convert_to_tensor(z)))
        return np.array(value), np.array(tape.gradient(value, z))

    for ours, reference in (
        (
            lambda z: losses.soft_cross_entropy(one_hot, z),
            lambda z: -tf.reduce_sum(one_hot * tf.nn.log_softmax(z), -1),
        ),
        (
            lambda z: losses.Distillation()(teacher, z),
            lambda z: tf.reduce_sum(tf.exp(log_p) * (log_p - tf.nn.log_softmax(z)), -1),
        ),
    ):
        for value, expected in zip(gradient_of(ours), gradient_of(reference)):
            np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-6)


def test_losses_are_serializable():
    for loss in (
        losses.CrossEntropy(np.float64(0.1)),
        losses.Distillation(np.float32(2.0)),
        losses.AlphaDivergence(np.float64(-0.5), np.float32(0.5), np.int64(3)),
    ):
        config = json.loads(json.dumps(keras.losses.serialize(loss)))
        copy = keras.losses.deserialize(config)
        assert copy.get_config() == loss.get_config()


def test_bad_arguments(predictions):
    with pytest.raises(ValueError, match="`temperature`.*temperature=0"):
        losses.Distillation(0)
    with pytest.raises(ValueError, match="`distillation`.*'half'"):
        losses.distillation_loss(list(predictions[1:]), predictions[0], "half")
