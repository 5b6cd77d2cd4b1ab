"""The public layers as Keras layers: its own test, arguments, policies."""

import inspect
import json

import keras
import numpy as np
import pytest
from conftest import make_tiny
from keras.src.testing import TestCase  # Keras exports no test case

from keras_resadapt import layers

IMAGES = (2, 8, 8, 3)
FEATURES = (2, 8, 8, 6)

# Keras calls a layer without further arguments in these two checks.
NEEDS_A_POINT = {"run_training_check": False, "run_mixed_precision_check": False}

CASES = {
    "Activation": ({"function": "relu"}, FEATURES, {}),
    "BatchNormalization": ({"momentum": 0.8}, FEATURES, {}),
    "Conv2D": ({"filters": 4, "kernel_size": 3, "strides": 2}, IMAGES, {}),
    "Conv2D_grouped": ({"filters": 4, "kernel_size": 3, "groups": 2}, FEATURES, {}),
    "DepthwiseConv2D": ({"kernel_size": 3, "strides": 2}, FEATURES, {}),
    "Dense": ({"units": 4}, (2, 6), {}),
    "HighFrequencyResidual": (
        {"scale": 2, "upsampling": "bilinear"},
        FEATURES,
        {"call_kwargs": {"low": np.ones((2, 4, 4, 6), "float32")}, **NEEDS_A_POINT},
    ),
    "PaddedMaxPooling2D": ({}, FEATURES, {}),
    "Preprocessing": ({"mode": "imagenet"}, IMAGES, {}),
    "SlimmableConv2D": (
        {"filters": 16, "kernel_size": 3, "max_width": 1.5},
        FEATURES,
        {"call_kwargs": {"width": 0.5}, **NEEDS_A_POINT},
    ),
    "SlimmableDepthwiseConv2D": ({"kernel_size": 3}, FEATURES, {}),
    "SlimmableDense": ({"units": 4}, (2, 6), {}),
    "SlimmableBatchNormalization": (
        {"full_resolution": 32, "full_width": 1.0},
        FEATURES,
        {"call_kwargs": {"resolution": 32, "width": 1.0}, **NEEDS_A_POINT},
    ),
    "PrivateSlimmableBatchNormalization": (
        {"resolutions": (32, 16), "full_width": 1.0},
        FEATURES,
        {"call_kwargs": {"resolution": 32, "width": 1.0}, **NEEDS_A_POINT},
    ),
    "SwitchableBatchNormalization": (
        {"resolutions": (32, 16)},
        FEATURES,
        {"call_kwargs": {"resolution": 16}, **NEEDS_A_POINT},
    ),
}
# The base class of blocks made of a `LayerSet`, which no configuration can hold
BLOCKS = {"Block"}


def test_every_public_layer_has_a_case():
    public = {
        name
        for name, value in vars(layers).items()
        if inspect.isclass(value) and issubclass(value, keras.layers.Layer)
    }
    assert public - BLOCKS == {name.split("_")[0] for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_keras_layer_test(name):
    init_kwargs, input_shape, further = CASES[name]
    layer_cls = getattr(layers, name.split("_")[0])
    TestCase().run_layer_test(
        layer_cls, init_kwargs, input_shape=input_shape, **further
    )


@pytest.mark.parametrize("name", CASES)
def test_numpy_arguments(name):
    init_kwargs, input_shape, further = CASES[name]
    layer_cls = getattr(layers, name.split("_")[0])

    def as_numpy(value):
        return value if isinstance(value, str) else np.array(value)[()]

    layer = layer_cls(**{key: as_numpy(value) for key, value in init_kwargs.items()})
    config = json.loads(json.dumps(layer.get_config()))
    expected = json.loads(
        json.dumps(layer_cls(**init_kwargs, name=layer.name).get_config())
    )
    assert config == expected
    x = np.ones(input_shape, "float32")
    call_kwargs = further.get("call_kwargs", {})
    copy = layer_cls.from_config(config)
    assert copy(x, **call_kwargs).shape == layer(x, **call_kwargs).shape


def test_numpy_sequences():
    conv = layers.Conv2D(np.int64(4), np.array([3, 1]), strides=np.array([2, 2]))
    json.dumps(conv.get_config())
    assert conv(np.ones(IMAGES)).shape == (2, 4, 4, 4)
    bn = layers.SwitchableBatchNormalization(
        np.array([16, 32]), np.float32(0.5), np.float64(1e-3)
    )
    json.dumps(bn.get_config())
    assert bn.resolutions == (32, 16) and bn.momentum == 0.5


@pytest.mark.parametrize(
    "arguments",
    [
        {"filters": 0},
        {"filters": 2.5},
        {"filters": True},
        {"kernel_size": (3, 3, 3)},
        {"strides": 0},
        {"groups": -1},
    ],
    ids=str,
)
def test_bad_arguments_are_named(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"`{name}` must be.*{name}="):
        layers.Conv2D(**{"filters": 4, "kernel_size": 3, **arguments})


@pytest.mark.parametrize("policy", ["float64", "float16", "bfloat16"])
def test_policies(policy):
    for name, (init_kwargs, input_shape, further) in CASES.items():
        layer_cls = getattr(layers, name.split("_")[0])
        layer = layer_cls(**init_kwargs, dtype=policy)
        x = np.random.default_rng(0).normal(size=input_shape).astype("float32")
        for training in (False, True):
            axes = further.get("call_kwargs", {})
            inputs = keras.ops.convert_to_tensor(x)
            if "training" in inspect.signature(layer.call).parameters:
                outputs = layer(inputs, **axes, training=training)
            else:
                outputs = layer(inputs, **axes)
            assert keras.backend.standardize_dtype(outputs.dtype) == policy, name
            assert np.isfinite(np.array(keras.ops.cast(outputs, "float32"))).all()


@pytest.mark.parametrize("policy", ["float64", "float16", "bfloat16"])
def test_a_network_of_a_policy_trains(policy, batch):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = make_tiny(resolutions=(16,))
        model.compile(keras.optimizers.SGD(0.01))
        images, labels = batch
        assert np.isfinite(model.train_on_batch(images[:, ::2, ::2], labels))
    finally:
        keras.config.set_dtype_policy(before)
