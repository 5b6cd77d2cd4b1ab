"""Masked channels, whole training steps under XLA, and training on JAX."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from xla_script import FAMILIES, make, make_batch, make_mutual, spread_out, train

from keras_resadapt import backbones, quantization, tasks, training
from keras_resadapt.models.masked_sandwich import draw_widths_and_places
from keras_resadapt.models.philox import stateless_uniform
from keras_resadapt.models.sandwich import draw_sub_networks, gradients_of_loss
from keras_resadapt.points import DrawnWidth, MaskedPoint, OperatingPoint

SCRIPT = pathlib.Path(__file__).parent / "xla_script.py"


def assert_close(one, other, tolerance):
    """Compares arrays up to a part of the largest value of each."""
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(a).max())


# === Draws ===


@pytest.mark.parametrize("seed, step", [(3, 7), (2**31 - 1, 0), (0, 123456)])
def test_random_numbers_are_tensorflows(seed, step):
    expected = tf.random.stateless_uniform((5,), (seed, step), dtype=tf.float64)
    numbers = stateless_uniform(5, seed, tf.constant(step), "float64")
    np.testing.assert_array_equal(numbers, expected)


def test_masked_sub_networks_are_those_of_slices():
    step, resolutions = tf.constant(11), (32, 24, 16)
    sliced = draw_sub_networks(step, 4, (0.25, 1.0), resolutions, 2)
    widths, places = draw_widths_and_places(step, 4, (0.25, 1.0), 3, 3)
    assert [resolutions[place] for place in places] == [int(r) for _, r in sliced]
    assert [float(w) for w in widths[1:]] == [float(w.value) for w, _ in sliced[1:]]


# === Masks ===

BACKBONES = {
    "mobilenet_v1": lambda: backbones.MobileNetV1((1, 1), (32, 64)),
    "mobilenet_v2": lambda: backbones.MobileNetV2(
        (1, 2), (16, 24), (1, 2), (1, 6), head_width=0.1
    ),
    "resnet": lambda: backbones.ResNet((1, 1), (32, 32), bottleneck=True),
    "pre_activation": lambda: backbones.ResNet((1, 1), (16, 32), pre_activation=True),
    "vgg": lambda: backbones.VGG((1, 1), (16, 32)),
}
MASKED = {
    name: lambda make=make: make_mutual(backbone=make())
    for name, make in BACKBONES.items()
} | {
    "private_bn": lambda: make_mutual(private_bn=True),
    "segmentation": lambda: make_mutual(
        tasks.Segmentation(3, decoder="light_weight_refinenet", channels=32, dropout=0)
    ),
}


@pytest.mark.parametrize("name", MASKED)
def test_masks_are_slices(name):
    """Losses and gradients of one sub-network, and no change of statistics."""
    model = spread_out(MASKED[name]())
    model.compile(training.SGD(0.1))
    images, targets = make_batch(name, 4)
    statistics = [np.array(v) for v in model.non_trainable_variables]
    results = []
    for point in (OperatingPoint, MaskedPoint):
        loss, _, gradients = gradients_of_loss(
            model,
            tf.constant(images),
            point(32, DrawnWidth(tf.constant(0.6, tf.float64))),
            (32, 32),
            lambda outputs: model.task_loss(targets, outputs),
        )
        results.append([loss, *map(tf.convert_to_tensor, gradients)])
    assert_close(*results, 1e-5)
    assert_close(statistics, model.non_trainable_variables, 0)


def test_concatenated_features_cannot_be_masked():
    model = make_mutual(backbone=backbones.DenseNet((2, 1), 8, stem="small"))
    images, _ = make_batch("mutualnet", 2)
    point = MaskedPoint(32, DrawnWidth(tf.constant(0.6, tf.float64)))
    with pytest.raises(ValueError, match="`backbone` must not concatenate"):
        model(images, point=point, training=True)


# === Training steps under XLA ===


@pytest.fixture(scope="module")
def quick_compiler():
    """Compiles in half of the time, if nothing in this process has used XLA before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
        yield


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_compiled_step_is_the_plain_step(family, quick_compiler):
    batch = make_batch(family)
    results = []
    for how in ({"run_eagerly": True, "jit_compile": False}, {"jit_compile": True}):
        model = make(family)
        # A large step, so that weights have digits enough for the change
        model.compile(training.SGD(1.0), metrics=["accuracy"], **how)
        before = model.get_weights()
        logs = model.train_on_batch(*batch, return_dict=True)
        results.append((logs, model.get_weights()))
    (logs, plain), (compiled_logs, compiled) = results
    assert logs.keys() == compiled_logs.keys()
    for name in logs:
        np.testing.assert_allclose(compiled_logs[name], logs[name], rtol=1e-5)
    # Rounding moves the maximum of a pooling window to another pixel.
    tolerance = 1e-2 if family == "segmentation" else 1e-4
    for start, a, b in zip(before, plain, compiled):
        allowed = tolerance * np.linalg.norm(a - start) + 3e-7 * np.linalg.norm(a)
        assert np.linalg.norm(a - b) <= allowed


# === JAX ===

ON_JAX = ("mutualnet", "rsnet")


@pytest.fixture(scope="module")
def on_jax(tmp_path_factory):
    """The folder of networks trained on JAX, and their logs."""
    pytest.importorskip("jax", reason="jax is an optional extra")
    folder = tmp_path_factory.mktemp("jax")
    command = [sys.executable, SCRIPT, folder, *ON_JAX]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return folder, json.loads((folder / "logs.json").read_text())


def weights_in(path):
    with np.load(path) as arrays:
        return list(arrays.values())


@pytest.mark.slow
@pytest.mark.parametrize("family", ON_JAX)
def test_four_devices_of_jax_train_as_one(family, on_jax):
    """Weights, BatchNormalization statistics and scores, with partial batches."""
    folder, logs = on_jax
    one, four = (weights_in(folder / f"{family}_{n}.npz") for n in ("one", "four"))
    assert_close(one, four, 1e-6)
    one, four = logs[f"{family}_one"], logs[f"{family}_four"]
    assert one.keys() == four.keys()
    for name in one:
        np.testing.assert_allclose(four[name], one[name], rtol=1e-6)


@pytest.mark.slow
def test_mutualnet_trains_on_jax_as_on_tensorflow(on_jax):
    """Masks on JAX, slices on TensorFlow, the same draws."""
    folder, logs = on_jax
    weights, expected = train("mutualnet")
    start = make("mutualnet").get_weights()
    ours = [a - b for a, b in zip(weights, start)]
    theirs = [a - b for a, b in zip(weights_in(folder / "mutualnet_one.npz"), start)]
    for a, b in zip(ours, theirs):
        assert np.linalg.norm(a - b) <= 1e-3 * np.linalg.norm(a) + 1e-7
    assert logs["mutualnet_one"].keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(
            logs["mutualnet_one"][name], expected[name], rtol=1e-4
        )


# === Refusals ===


def test_a_quantized_network_is_not_masked():
    model = make_mutual(quantization=quantization.LearnedQuantization(2))
    model.compile(training.SGD(0.1), jit_compile=True)
    with pytest.raises(ValueError, match="trains on TensorFlow without XLA"):
        model.train_on_batch(*make_batch("mutualnet", 2))


def test_no_tpu():
    with pytest.raises(RuntimeError, match="needs a TPU"):
        training.strategy_scope("tpu")
