"""Tiny networks for many tests, and two replicas to train on."""

import gc

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_resadapt  # first: it chooses TensorFlow's convolutions

# Two logical CPUs make a MirroredStrategy of two replicas; only possible
# before TensorFlow touches its devices.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)

# Tracing makes many objects that live on. Looking for garbage among them after every
# 700 new objects, as Python does by default, takes a tenth of the time.
gc.set_threshold(50_000, 10, 2)

RESOLUTIONS = (32, 24, 16)

# Each file of tests runs in one process, so that its fixtures are made once. Those
# that take longest come first, so that no process is left with one of them.
LONGEST = (
    "test_segmentation.py",
    "test_workers.py",
    "test_quantization.py",
    "test_examples.py",
    "test_training.py",
    "test_golden.py",
    "test_data.py",
    "test_detection.py",
    "test_network.py",
    "test_litert.py",
    "test_detection_workers.py",
    "test_xla.py",
    "test_mutualnet.py",
    "test_rsnet.py",
    "test_documentation.py",
    "test_cascade.py",
    "test_export_cascade.py",
    "test_quantize_example.py",
    "test_numerics.py",
    "test_segmentation_data.py",
    "test_refinenet.py",
    "test_mask_rcnn.py",
    "test_detection_data.py",
    "test_adaptive.py",
)


def pytest_collection_modifyitems(items):
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


def make_tiny(num_classes=5, resolutions=RESOLUTIONS, **kwargs):
    """An RS-Net of two blocks for 16 to 32 pixels."""
    return keras_resadapt.RSNet18(
        num_classes,
        resolutions,
        depths=(1, 1),
        filters=(8, 16),
        stem="small",
        **kwargs,
    )


def make_tiny_cascade(num_classes=5, **kwargs):
    """A RANet of three exits for 32 pixels."""
    return keras_resadapt.RANet(
        num_classes,
        num_blocks=2,
        block_step=1,
        step=1,
        scale_list=(1, 2),
        channels=8,
        growth_rate=8,
        growth_factors=(2, 1),
        bottleneck_factors=(2, 1),
        **kwargs,
    )


def randomize(model, seed=0):
    """Random BatchNormalization in every branch, so that a mix-up shows."""
    rng = np.random.default_rng(seed)
    for v in model.variables:
        if v.path.endswith(("gamma", "moving_variance")):
            v.assign(rng.uniform(0.5, 1.5, v.shape))
        elif v.path.endswith(("beta", "moving_mean")):
            v.assign(rng.normal(0, 0.1, v.shape))
        elif v.path.endswith("alpha"):
            v.assign(rng.normal(1, 0.5, v.shape))
    return model


@pytest.fixture
def tiny():
    keras.utils.set_random_seed(1)
    return randomize(make_tiny())


@pytest.fixture
def tiny_cascade():
    keras.utils.set_random_seed(1)
    return randomize(make_tiny_cascade())


@pytest.fixture(scope="session")
def tiny_to_read():
    """The network of `tiny`, built once, for tests that leave it as it is."""
    keras.utils.set_random_seed(1)
    return randomize(make_tiny())


@pytest.fixture(scope="session")
def tiny_cascade_to_read():
    """The network of `tiny_cascade`, built once."""
    keras.utils.set_random_seed(1)
    return randomize(make_tiny_cascade())


@pytest.fixture
def batch():
    """Images in [0, 255] at the largest resolution, and labels."""
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (8, 32, 32, 3)).astype("float32")
    return images, rng.integers(0, 5, 8)
