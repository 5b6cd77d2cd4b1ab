"""Faults of TensorFlow's kernels that training must not suffer from."""

import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_tiny, make_tiny_cascade

import keras_resadapt
from keras_resadapt import layers


def run_python(code) -> str:
    """Returns the output of a new process, which must succeed."""
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


# === NaN ===

FAMILIES = {
    "rsnet": lambda: make_tiny(resolutions=(32, 16)),
    "rsnet_imagenet_stem": lambda: keras_resadapt.RSNet18(
        5, (32,), depths=(1, 1), filters=(8, 8)
    ),
    "ranet": make_tiny_cascade,
    "msnet": lambda: keras_resadapt.MSResNet18(
        5, (32, 16), depths=(1, 1), filters=(8, 8), stem="small"
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_nan_pixel_shows_in_the_loss(family, batch):
    model = FAMILIES[family]()
    model.compile(keras.optimizers.SGD(0.01))
    images, labels = batch
    images[1, 3, 3, 0] = np.nan
    stop = keras.callbacks.TerminateOnNaN()
    history = model.fit(
        images, labels, batch_size=8, epochs=2, callbacks=[stop], verbose=0
    )
    assert len(history.epoch) == 1
    assert np.isnan(history.history["loss"][0])
    images[1, 3, 3, 0] = 0.0
    logits = tf.function(lambda x: model.logits(x, model.operating_points[0]))(images)
    assert np.isnan(logits).all()


def test_activation_passes_nan_and_gradients():
    x = tf.constant([-2.0, -0.0, 0.0, 3.0, np.nan, np.inf])
    relu = layers.Activation("relu")
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        ours, stock = relu(x, training=True), tf.nn.relu(x)
    np.testing.assert_array_equal(ours, [0, 0, 0, 3, np.nan, np.inf])
    np.testing.assert_array_equal(
        tape.gradient(ours, x)[:4], tape.gradient(stock, x)[:4]
    )


# === Convolutions over few channels ===


@pytest.mark.parametrize("channels", [3, 8, 15, 16])
def test_strided_pointwise_convolution(channels):
    conv = layers.Conv2D(4, 1, strides=2, use_bias=True)
    x = np.random.default_rng(0).normal(size=(2, 7, 8, channels)).astype("float32")
    conv.build(x.shape)
    with tf.GradientTape(persistent=True) as tape:
        inputs = tf.constant(x)
        tape.watch(inputs)
        ours = conv(inputs)
        stock = tf.nn.conv2d(inputs, conv.kernel.value, 2, "VALID")
    assert tuple(ours.shape) == conv.compute_output_shape(x.shape)
    np.testing.assert_allclose(ours, stock, atol=1e-5)
    kernel = conv.kernel.value
    for source in (inputs, kernel):
        np.testing.assert_allclose(
            tape.gradient(ours, source), tape.gradient(stock, source), atol=1e-4
        )


def test_no_strided_pointwise_convolution_of_tensorflow():
    """Its kernel gradient corrupts the heap for fewer than 16 channels."""
    from keras_resadapt.quantization import Int8

    for quantization in (None, Int8()):
        model = make_tiny(resolutions=(32,), quantization=quantization)
        (point,) = model.operating_points

        @tf.function
        def step(images):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(model.logits(images, point, training=True))
            return tape.gradient(loss, [v.value for v in model.trainable_variables])

        graph = step.get_concrete_function(tf.TensorSpec((5, 32, 32, 3))).graph
        kernels = [
            op.get_attr("strides")[1:3]
            for op in graph.get_operations()
            if op.type == "Conv2D"
            and op.inputs[1].shape[:2] == (1, 1)
            and op.inputs[1].shape[2] < 16
        ]
        assert [2, 2] not in kernels


@pytest.mark.slow
def test_training_with_few_channels_survives():
    output = run_python("""
        import keras_resadapt, keras, numpy as np
        model = keras_resadapt.RSNet18(
            5, (32,), depths=(1, 1), filters=(8, 16), stem="small")
        model.compile(keras.optimizers.SGD(0.01))
        x = np.random.default_rng(0).uniform(0, 255, (20, 32, 32, 3))
        model.fit(x, np.arange(20) % 5, batch_size=5, epochs=5, verbose=0)
        print("trained")
    """)
    assert output.strip() == "trained"


# === Determinism ===


@pytest.mark.slow
def test_steps_of_large_batches_are_deterministic():
    """`enable_determinism` leaves one thread between operations.

    `AddN`, which sums the gradients of a tensor, accumulates three and more
    tensors in the first input whose buffer is free. So the order of the sum
    depends on the timing of the threads. `enable_op_determinism` does not
    change that.
    """
    output = run_python("""
        import keras_resadapt, keras, numpy as np, tensorflow as tf
        keras_resadapt.training.enable_determinism()
        keras.utils.set_random_seed(0)
        model = keras_resadapt.RANet(
            5, num_blocks=3, block_step=2, step=2, scale_list=(1, 2, 3),
            channels=16, growth_rate=6, growth_factors=(4, 2, 1),
            bottleneck_factors=(4, 2, 1))
        rng = np.random.default_rng(0)
        images = tf.constant(rng.uniform(0, 255, (128, 32, 32, 3)), tf.float32)
        labels = tf.constant(rng.integers(0, 5, 128))
        model.compile()

        @tf.function
        def gradients():
            with tf.GradientTape() as tape:
                logits = model(model.prepare_inputs(images), training=True)
                loss = model.compute_loss(images, labels, logits)
            return tape.gradient(loss, [v.value for v in model.trainable_variables])

        first = gradients()
        for _ in range(2):
            assert all(map(np.array_equal, first, gradients()))
        print("equal")
    """)
    assert output.strip() == "equal"
