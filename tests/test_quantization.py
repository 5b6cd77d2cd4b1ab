"""Quantized networks: ranges, layers, every family, saving, errors."""

import functools
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_tiny, make_tiny_cascade, randomize

import keras_resadapt
from keras_resadapt import (
    OperatingPoint,
    backbones,
    export,
    inference,
    layers,
    quantization,
)
from keras_resadapt.quantization import Int8, LearnedQuantization
from keras_resadapt.quantization.int8 import (
    LastValueWeights,
    MovingRangeActivations,
)
from keras_resadapt.quantization.learned import LearnedWeights
from keras_resadapt.quantization.per_point import SwitchableQuantizer

SCHEMES = [Int8(), LearnedQuantization(2, 2)]


def run_python(code, **environment):
    """Returns the output of a new process, which must succeed."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": root, **environment},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def make_block(resolutions, scheme):
    """A quantized RS-Net of one block."""
    return keras_resadapt.RSNet18(
        5, resolutions, depths=(1,), filters=(8,), stem="small", quantization=scheme
    )


def batches_of(model, count=2, size=16, seed=0):
    """Random images in batches, at the largest resolution of the model."""
    rng = np.random.default_rng(seed)
    pixels = max(model.resolution_of(p) for p in model.operating_points)
    return [
        (
            rng.uniform(0, 255, (size, pixels, pixels, 3)).astype("float32"),
            rng.integers(0, model.num_classes, size),
        )
        for _ in range(count)
    ]


def logits_of(model, images, point):
    size = model.resolution_of(point)
    images = layers.resize_bilinear(tf.constant(images), size)
    return np.array(model.logits(images, point))


# === The quantizers ===


def fake_quantized(x, minimum, maximum, bits=8):
    """Rounds to evenly spaced levels that include 0, in NumPy."""
    steps = 2**bits - 1
    scale = (maximum - minimum) / steps
    zero = np.clip(np.round(-minimum / scale), 0, steps)
    codes = np.clip(np.floor(x / scale + zero + 0.5), 0, steps)
    return (codes - zero) * scale


def test_weights_are_symmetric_and_narrow():
    rng = np.random.default_rng(0)
    kernel = rng.normal(0, 1, (3, 3, 4, 6)).astype("float32")
    kernel[..., 1] *= 100
    quantizer = LastValueWeights()
    quantizer.build(kernel.shape)
    outputs = np.array(quantizer(kernel, kernel, training=True))
    scale = np.abs(kernel).max(axis=(0, 1, 2)) / 127
    expected = np.round(kernel / scale) * scale
    np.testing.assert_allclose(outputs, expected, atol=1e-4)
    assert np.abs(np.round(outputs / scale)).max() == 127

    # In inference the last range stays, also for the first channels alone.
    part = 2 * kernel[:, :, :2, :3]
    np.testing.assert_allclose(
        quantizer(part, 2 * kernel),
        np.clip(np.round(part / scale[:3]), -127, 127) * scale[:3],
        rtol=1e-5,
        atol=1e-5,
    )
    whole = LastValueWeights(bits=4, per_channel=False)
    whole.build(kernel.shape)
    scale = np.abs(kernel).max() / 7
    np.testing.assert_allclose(
        whole(kernel, kernel, training=True),
        np.round(kernel / scale) * scale,
        rtol=1e-4,
        atol=1e-4,
    )


def test_activation_ranges_are_moving_averages():
    rng = np.random.default_rng(0)
    quantizer = MovingRangeActivations()
    quantizer.build()
    limits = np.zeros(2)
    for count in range(3):
        x = rng.normal(0.5, 2, (4, 5, 5, 3)).astype("float32")
        batch = np.array([min(x.min(), 0), max(x.max(), 0)])
        limits = limits + (batch - limits) / (count + 1)
        limits = 0.999 * limits + 0.001 * batch
        outputs = quantizer(x, training=True)
        np.testing.assert_allclose(outputs, fake_quantized(x, *limits), atol=1e-5)
    np.testing.assert_allclose([float(v) for v in quantizer.state], limits, rtol=1e-5)
    np.testing.assert_allclose(
        quantizer(10 * x), fake_quantized(10 * x, *limits), atol=1e-4
    )
    np.testing.assert_allclose(
        quantizer.quantize_by_batch(10 * x),
        fake_quantized(10 * x, 10 * x.min(), 10 * x.max()),
        atol=1e-4,
    )
    quantizer.batches.assign(1000)
    quantizer(2 * x, training=True)  # TFMOT's average alone
    limits = 0.999 * limits + 0.002 * batch
    np.testing.assert_allclose([float(v) for v in quantizer.state], limits, rtol=1e-5)
    quantizer.trainable = False
    quantizer(100 * x, training=True)
    np.testing.assert_allclose([float(v) for v in quantizer.state], limits, rtol=1e-5)


def test_a_channel_of_zeros_keeps_a_range():
    kernel = np.zeros((3, 3, 2, 2), "float32")
    kernel[..., 1] = 0.5
    quantizer = LastValueWeights()
    quantizer.build(kernel.shape)
    np.testing.assert_allclose(
        quantizer(kernel, kernel, training=True), kernel, atol=1e-6
    )
    np.testing.assert_allclose(quantizer.magnitude(2), [1.0, 0.5])
    np.testing.assert_allclose(quantizer.magnitude(1), [1.0])


def test_ranges_follow_a_residual_that_starts_at_zero():
    quantizer = MovingRangeActivations()
    quantizer.build()
    for step in range(50):
        x = tf.constant([0.0, 0.01 * step])
        quantizer(x, training=True)
    assert float(quantizer.state[1]) > 0.4 * 0.49


@pytest.mark.parametrize("part", [1.0, 0.4])
def test_gradients_stop_outside_the_range(part):
    quantizer = MovingRangeActivations()
    quantizer.build()
    x = tf.constant([-1.0, 0.2, 1.0]) * part
    quantizer(tf.constant([-0.5, 0.5]), training=True)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(quantizer(x))
    np.testing.assert_array_equal(
        tape.gradient(loss, x), [0, 1, 0] if part == 1 else [1, 1, 1]
    )


def test_a_state_a_resolution():
    quantizer = SwitchableQuantizer(MovingRangeActivations(), (32, 16))
    quantizer.build()
    x = tf.constant([[0.0, 1.0, 3.0]])
    quantizer(x, resolution=32, training=True)
    quantizer(x / 3, resolution=16, training=True)
    np.testing.assert_allclose(quantizer(x, resolution=32), x, atol=0.02)
    np.testing.assert_allclose(quantizer(x, resolution=16)[0, 2], 1.0)
    # Halfway between the resolutions, the range is the mean of theirs.
    np.testing.assert_allclose(quantizer(x, resolution=24)[0, 2], 2.0)
    with pytest.raises(ValueError, match="from 16 to 32"):
        quantizer(x, resolution=40)


# === Layers ===


@pytest.mark.parametrize("bits", [None, 2])
@pytest.mark.parametrize("slimmable", [False, True])
@pytest.mark.parametrize("kind", ["conv", "pointwise", "depthwise", "dense"])
def test_configuration_and_weights_of_a_layer(kind, slimmable, bits, tmp_path):
    """Quantized layers, and packed ones for a number of bits."""
    if kind == "dense" and bits is not None:
        pytest.skip("`LearnedQuantization` leaves dense layers in float")
    float_layers = layers.LayerSet()
    if slimmable:
        float_layers = layers.LayerSet(
            conv=functools.partial(layers.SlimmableConv2D, max_width=1.0),
            depthwise=layers.SlimmableDepthwiseConv2D,
            dense=layers.SlimmableDense,
        )
    scheme = Int8() if bits is None else LearnedQuantization(bits, packed=True)
    made = scheme.layers(float_layers)
    layer = {
        "conv": lambda: made.conv(16, 3, strides=2, use_bias=True),
        "pointwise": lambda: made.conv(16, 1, strides=2),
        "depthwise": lambda: made.depthwise(3, use_bias=False),
        "dense": lambda: made.dense(5),
    }[kind]()
    point = OperatingPoint(width=1.0)
    shape = (4, 6) if kind == "dense" else (4, 8, 8, 6)
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    outputs = point.call(layer, x)
    assert layer.compute_output_spec(x, point=point).shape == outputs.shape
    if bits is not None:
        assert layer.kernel is None
        codes = layer.weight_quantizer.codes
        codes.assign(np.random.default_rng(1).integers(0, 256, codes.shape))
        layer.weight_quantizer.basis.assign(np.ones(layer.weight_quantizer.basis.shape))
        outputs = point.call(layer, x)
        assert np.abs(outputs).max() > 0
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    copy = keras.saving.deserialize_keras_object(config)
    assert type(copy) is type(layer)
    point.call(copy, x)
    assert [v.path for v in copy.variables] == [v.path for v in layer.variables]
    copy.set_weights(layer.get_weights())
    np.testing.assert_array_equal(point.call(copy, x), outputs)


def test_groups_and_width_of_quantized_convolutions():
    """Rounding the kernel and convolving are those of the float layer."""
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 6)).astype("float32")
    made = Int8().layers(layers.LayerSet())
    grouped = made.conv(4, 3, groups=2)
    y = grouped(x)
    rounded = layers.Conv2D(4, 3, groups=2)
    rounded.build(x.shape)
    rounded.kernel.assign(grouped.rounded(grouped.kernel))
    np.testing.assert_allclose(y, rounded(x), atol=1e-5)
    slim = Int8().layers(layers.LayerSet(conv=layers.SlimmableConv2D)).conv(16, 3)
    slim.build((None, 8, 8, 6))
    half = OperatingPoint(width=0.5)
    np.testing.assert_allclose(
        half.call(slim, x[..., :3]),
        tf.nn.conv2d(
            x[..., :3], slim.rounded(slim.kernel)[:, :, :3, :8], 1, padding="SAME"
        ),
        atol=1e-5,
    )


def test_a_constructor_without_a_quantized_form_is_named():
    with pytest.raises(ValueError, match="no quantized form.*SeparableConv2D"):
        Int8().layers(layers.LayerSet(conv=keras.layers.SeparableConv2D))


# === Networks ===


def families():
    stem = {"depths": (1, 1), "filters": (16, 16), "stem": "small"}
    return {
        "cascade": make_tiny_cascade,
        "msnet": lambda: keras_resadapt.MSResNet18(5, (32, 16), **stem),
        "mutualnet": lambda: keras_resadapt.MutualMobileNetV1(
            5, (0.5, 1.0), (32, 24), **stem
        ),
        # Of an RS-Net, so that it stands for that family too
        "point_cascade": lambda: keras_resadapt.PointCascade(
            make_tiny(resolutions=(32, 16))
        ),
    }


@pytest.mark.slow
@pytest.mark.parametrize("family", families())
def test_every_family_in_int8(family):
    """Weights, statistics and configuration are kept; logits change little."""
    keras.utils.set_random_seed(0)
    model = randomize(families()[family]())
    data = batches_of(model)
    points = model.operating_points
    if family == "mutualnet":
        points = [OperatingPoint(32, 1.0), OperatingPoint(24, 0.5)]
        inference.calibrate_batch_norm(model, data, points, verbose=False)
    quantized = quantization.quantize(model, Int8())
    assert type(quantized) is type(model)
    assert quantized.operating_points == model.operating_points
    with pytest.raises(ValueError, match="never calibrated"):
        quantization.check_calibrated(quantized, points)
    quantization.calibrate_ranges(quantized, data, verbose=False)
    quantization.check_calibrated(quantized, points)
    images = data[0][0][:8]
    for point in points:
        expected = logits_of(model, images, point)
        error = np.abs(logits_of(quantized, images, point) - expected).max()
        assert 0 < error < 0.15 * np.abs(expected).max()
    network = getattr(quantized, "network", quantized)
    original = getattr(model, "network", model)
    assert network.quantization == Int8()
    kept = {k: v for k, v in network.get_config().items() if k != "quantization"}
    expected = original.get_config()
    del expected["quantization"]
    assert str(kept) == str(expected)
    assert quantized.profile(points) == model.profile(points)
    weighted = [
        layer
        for layer in network._flatten_layers()
        if getattr(layer, "weight_quantizer", None) is not None
    ]
    assert weighted and all(layer.input_step for layer in weighted)


@pytest.mark.parametrize("point", [OperatingPoint(32), OperatingPoint(24)])
def test_products_and_offsets_are_those_of_integers(point):
    """A convolution, its normalization and the classifier, in NumPy."""
    keras.utils.set_random_seed(0)
    model = quantization.quantize(randomize(make_tiny(resolutions=(32, 16))), Int8())
    quantization.calibrate_ranges(model, batches_of(model), verbose=False)
    rng = np.random.default_rng(0)
    model.classifier.bias.assign(rng.normal(0, 1, 5))

    def codes(x, step):
        return np.round(np.array(x, "float64") / np.array(step, "float64"))

    def weight_codes(layer, kernel):
        step = np.abs(kernel).max(axis=tuple(range(kernel.ndim - 1))) / 127
        return codes(kernel, step), step

    stem, block = model.backbone.stages[0][0], model.backbone.stages[1][0]
    conv, norm = block.convs[0], block.bns[0]
    x = rng.uniform(0, 3, (2, 4, 4, conv.kernel.shape[2])).astype("float32")
    x = point.call(stem.act1, x)
    step = float(point.step(stem.act1.quantizer))
    kernel, weight_step = weight_codes(conv, np.array(conv.kernel))
    scale, offset = (np.array(v, "float64") for v in point.affine(norm))
    unit = step * weight_step * np.abs(scale)
    padded = np.pad(codes(x, step), [(0, 0), (1, 1), (1, 1), (0, 0)])
    sums = sum(
        padded[:, i : i + 4, j : j + 4] @ kernel[i, j]
        for i in range(3)
        for j in range(3)
    )
    expected = unit * (np.sign(scale) * sums + np.round(offset / unit))
    actual = layers.conv_norm(conv, norm, x, point, training=False)
    # Offsets that are not rounded would differ by more than the tolerance.
    assert np.abs(np.round(offset / unit) * unit - offset).max() > 1e-5
    np.testing.assert_allclose(actual, expected, atol=3e-6)

    dense = model.classifier
    x = rng.uniform(0, 1, (2, dense.kernel.shape[0])).astype("float32")
    x = np.array(point.call(dense.input_quantizer, x))
    step = float(point.step(dense.input_quantizer))
    kernel, weight_step = weight_codes(dense, np.array(dense.kernel))
    unit = step * weight_step
    expected = unit * (codes(x, step) @ kernel + np.round(np.array(dense.bias) / unit))
    expected = np.array(point.call(dense.output_quantizer, expected.astype("float32")))
    np.testing.assert_allclose(point.call(dense, x), expected, atol=3e-6)


def test_gradients_pass_rounded_offsets():
    """Also with the running statistics, as in fine-tuning with frozen ones."""
    model = quantization.quantize(make_tiny(resolutions=(32,)), Int8())
    quantization.calibrate_ranges(model, batches_of(model), verbose=False)
    (point,) = model.operating_points
    images = batches_of(model)[0][0]
    biased = [v for v in model.trainable_variables if v.name in ("beta", "bias")]
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model.logits(images, point)[:, 0] ** 2)
    gradients = tape.gradient(loss, [v.value for v in biased])
    assert len(biased) == 7
    assert all(np.abs(gradient).max() > 0 for gradient in gradients)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_fit_save_and_load(scheme, tmp_path):
    keras.utils.set_random_seed(0)
    model = make_block((32, 16), scheme)
    (images, labels), *_ = batches_of(model, 1, 32)
    model.compile(keras.optimizers.SGD(0.05, 0.9), metrics=["accuracy"])
    history = model.fit(images, labels, batch_size=16, epochs=8, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]
    quantization.check_calibrated(model, model.operating_points)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.quantization == scheme
    for point in model.operating_points:
        np.testing.assert_array_equal(
            logits_of(loaded, images, point), logits_of(model, images, point)
        )
    loaded.run_eagerly = True
    loaded.fit(images[:8], labels[:8], verbose=0)  # with its optimizer

    export.export_saved_model(
        model, tmp_path / "served", encoded=False, warmup_batch_sizes=()
    )
    served = tf.saved_model.load(tmp_path / "served")
    for point in model.operating_points:
        size = model.resolution_of(point)
        view = layers.resize_bilinear(tf.constant(images), size)
        answer = served.signatures[point.name](images=view)
        np.testing.assert_allclose(
            answer["logits"], logits_of(model, images, point), atol=1e-4
        )


@pytest.mark.parametrize("private", [True, False])
@pytest.mark.parametrize("kind", ["int8", "learned"])
def test_private_and_shared_ranges(private, kind):
    scheme = (
        Int8(private_ranges=private)
        if kind == "int8"
        else LearnedQuantization(2, 2, private_ranges=private)
    )
    model = make_tiny(resolutions=(32, 16), quantization=scheme)
    states = [
        v.path
        for v in model.variables
        if v.name in ("activations_max", "basis")
        and v.shape == ()
        or v.name == "basis"
        and len(v.shape) == 1
    ]
    of_16 = [path for path in states if "/r16/" in path]
    assert states and len(of_16) == (len(states) // 2 if private else 0)
    (images, _), *_ = batches_of(model, 1)
    before = {v.path: np.array(v) for v in model.variables}
    small = layers.resize_bilinear(tf.constant(images), 16)
    model.logits(small, model.operating_points[1], training=True)
    moved = {
        v.path
        for v in model.variables
        if v.path in states and not np.array_equal(before[v.path], v)
    }
    assert moved == set(of_16 if private else states)


@pytest.mark.slow
def test_two_replicas_train_as_one():
    """Bases are fitted to the values of all replicas."""
    from keras_resadapt import training

    results = []
    for strategy in ("none", "mirrored"):
        keras.utils.set_random_seed(0)
        with training.strategy_scope(strategy):
            model = make_block((32,), LearnedQuantization(2, 2))
            # Running a step eagerly takes less time than tracing it.
            model.compile(keras.optimizers.SGD(0.01), run_eagerly=strategy == "none")
        (images, labels), *_ = batches_of(model, 1, 16)
        model.fit(images, labels, batch_size=16, epochs=2, shuffle=False, verbose=0)
        results.append({v.path: np.array(v) for v in model.variables})
    one, two = results
    assert [name for name in one if name.endswith("basis")]
    for (name, value), other in zip(one.items(), two.values(), strict=True):
        np.testing.assert_allclose(value, other, atol=2e-4, err_msg=name)


def test_calibration_averages_batches():
    model = quantization.quantize(make_tiny(resolutions=(32, 16)), Int8())
    data = batches_of(model, 3)
    quantization.calibrate_ranges(model, data, verbose=False)
    conv = model.backbone.stages[0][0].conv1
    branch = conv.input_quantizer.branches[0]
    views = [np.array(model.preprocessing(images)) for images, _ in data]
    np.testing.assert_allclose(
        [float(v) for v in branch.state],
        [np.mean([v.min() for v in views]), np.mean([v.max() for v in views])],
        rtol=1e-5,
    )
    assert int(branch.batches) == 3

    # A failed calibration leaves the ranges unchanged.
    with pytest.raises(ValueError, match="no batches"):
        quantization.calibrate_ranges(model, [], verbose=False)
    with pytest.raises(ValueError, match="Only the resolutions"):
        quantization.calibrate_ranges(model, data, [OperatingPoint(24)], verbose=False)
    quantization.check_calibrated(model, model.operating_points)


def test_a_new_network_knows_the_range_of_its_weights():
    model = make_tiny(quantization=Int8())
    conv = model.backbone.stages[1][0].convs[0]
    np.testing.assert_allclose(
        conv.weight_quantizer.magnitude(conv.filters),
        np.abs(np.array(conv.kernel)).max(axis=(0, 1, 2)),
        rtol=1e-6,
    )


@pytest.mark.slow
def test_a_mutualnet_trains_and_needs_calibration_again():
    model = randomize(families()["mutualnet"]())
    data = batches_of(model)
    narrow = OperatingPoint(24, 0.5)
    inference.calibrate_batch_norm(model, data, [narrow], verbose=False)
    model = quantization.quantize(model, Int8())
    model.compile(keras.optimizers.SGD(0.01), run_eagerly=True)
    loss = model.fit(*data[0], epochs=1, verbose=0).history["loss"][0]
    assert np.isfinite(loss)
    with pytest.raises(ValueError, match="statistics of r24_w0.5"):
        logits_of(model, data[0][0], narrow)
    inference.calibrate_batch_norm(model, data, [narrow], verbose=False)
    with pytest.raises(ValueError, match="never calibrated"):
        quantization.check_calibrated(model, [narrow])
    quantization.calibrate_ranges(model, data, [narrow], verbose=False)
    quantization.check_calibrated(model, [narrow])
    assert np.isfinite(logits_of(model, data[0][0], narrow)).all()


@pytest.mark.slow
def test_a_basis_moves_once_a_step():
    """It does not move once per resolution, nor once per width."""
    scheme = LearnedQuantization(2, 32)
    networks = {
        "rsnet": make_tiny(resolutions=(32, 16), quantization=scheme),
        "mutualnet": keras_resadapt.MutualMobileNetV1(
            5,
            (0.5, 1.0),
            (32, 24),
            depths=(1,),
            filters=(16,),
            stem="small",
            quantization=scheme,
        ),
    }
    for name, model in networks.items():
        layer = next(
            layer
            for layer in model._flatten_layers()
            if getattr(layer, "weight_quantizer", None) is not None
        )
        kernel = np.array(layer.output_last(layer.kernel))
        expected = LearnedWeights(2)
        expected.build(kernel.shape)
        np.testing.assert_allclose(expected.basis, layer.weight_quantizer.basis)
        expected(kernel, kernel, training=True)
        model.compile(keras.optimizers.SGD(0.01))
        (images, labels), *_ = batches_of(model, 1)
        model.train_on_batch(images, labels)
        np.testing.assert_allclose(
            layer.weight_quantizer.basis,
            expected.basis,
            atol=1e-5,
            err_msg=name,
        )


@pytest.mark.slow
def test_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        for scheme in SCHEMES:
            model = make_tiny(resolutions=(32,), quantization=scheme)
            model.compile(keras.optimizers.SGD(0.01), run_eagerly=True)
            (images, labels), *_ = batches_of(model, 1)
            loss = model.train_on_batch(images, labels)
            assert np.isfinite(loss)
            logits = logits_of(model, images, model.operating_points[0])
            assert logits.dtype == "float32" and np.isfinite(logits).all()
    finally:
        keras.config.set_dtype_policy("float32")


def test_first_and_last_layer_are_options():
    model = make_tiny(quantization=Int8(first=False, last=False))
    assert type(model.backbone.stages[0][0].conv1) is layers.Conv2D
    assert type(model.classifier) is layers.Dense
    assert model.backbone.stages[1][0].convs[0].weight_quantizer is not None
    model = make_tiny(quantization=Int8(weight_bits=4, per_channel=False))
    quantizer = model.backbone.stages[1][0].convs[0].weight_quantizer
    assert (quantizer.bits, quantizer.per_channel) == (4, False)


def test_learned_quantization_chooses_the_architecture():
    config = make_tiny(quantization=LearnedQuantization(2, 32)).backbone
    assert config.zero_init_residual and not config.pre_activation
    config = make_tiny(quantization=LearnedQuantization(2, 2)).backbone
    assert config.pre_activation and not config.zero_init_residual


@pytest.mark.slow
def test_thresholds_are_carried_over():
    model = make_tiny_cascade()
    (images, labels), *_ = batches_of(model, 1, 64)
    logits = inference.collect_logits(model, [(images, labels)], verbose=False)
    thresholds = inference.Thresholds((0.5, 0.5), fingerprint=logits.fingerprint)
    quantized = quantization.quantize(model, Int8())
    with pytest.raises(ValueError, match="another model"):
        thresholds.check(quantized)
    carried = thresholds.carried_over(model, quantized)
    carried.check(quantized)
    assert carried.values == thresholds.values


# === Packed weights ===


@pytest.mark.slow
@pytest.mark.parametrize("bits", [2, 3])
def test_packed_weights_give_the_same_answers(bits, tmp_path):
    keras.utils.set_random_seed(0)
    scheme = LearnedQuantization(bits, 32)
    model = randomize(make_tiny(resolutions=(32, 16), quantization=scheme))
    (images, labels), *_ = batches_of(model, 1)
    packed = quantization.pack(model)
    packed.save(tmp_path / "packed.keras")
    loaded = keras.models.load_model(tmp_path / "packed.keras")
    for point in model.operating_points:
        expected = logits_of(model, images, point)
        for network in (packed, loaded):
            np.testing.assert_allclose(
                logits_of(network, images, point), expected, atol=1e-6
            )
    conv = packed.backbone.stages[1][0].convs[0]
    assert conv.weight_quantizer.codes.shape == (bits, 3 * 3 * 8 // 8, 8)
    assert conv.kernel is None
    packed.compile("sgd")
    with pytest.raises(ValueError, match="cannot be trained"):
        packed.fit(images, labels, verbose=0)
    with pytest.raises(ValueError, match="only once"):
        quantization.pack(packed)
    cascade = keras_resadapt.PointCascade(packed)
    cascade.compile("sgd")
    with pytest.raises(ValueError, match="cannot be trained"):
        cascade.fit(images, labels, verbose=0)

    unpacked = quantization.unpack(packed)
    assert unpacked.quantization == scheme
    for point in model.operating_points:
        np.testing.assert_allclose(
            logits_of(unpacked, images, point),
            logits_of(model, images, point),
            atol=1e-6,
        )
    with pytest.raises(ValueError, match="is not packed"):
        quantization.unpack(unpacked)


def test_files_hold_two_bits_a_weight(tmp_path):
    model = keras_resadapt.RSNet18(
        5,
        (32,),
        depths=(1, 1),
        filters=(64, 64),
        stem="small",
        quantization=LearnedQuantization(2, 32),
    )
    weights = sum(int(np.prod(v.shape)) for v in model.variables if v.name == "kernel")
    model.save_weights(tmp_path / "float.weights.h5")
    quantization.pack(model).save_weights(tmp_path / "packed.weights.h5")
    saved = (tmp_path / "float.weights.h5").stat().st_size - (
        tmp_path / "packed.weights.h5"
    ).stat().st_size
    assert saved > 0.85 * weights * (32 - 2) / 8
    export.export_saved_model(
        model, tmp_path / "served", encoded=False, warmup_batch_sizes=()
    )
    files = (tmp_path / "served" / "variables").glob("*.data*")
    assert sum(f.stat().st_size for f in files) < 0.25 * 4 * weights


# === Bad input ===


@pytest.mark.slow
def test_what_cannot_be_quantized(tmp_path):
    model = make_tiny()
    with pytest.raises(TypeError, match="`scheme` must be a scheme"):
        quantization.quantize(model, "int8")
    with pytest.raises(TypeError, match="`model` must be a network"):
        quantization.quantize(keras.Sequential(), Int8())
    with pytest.raises(TypeError, match="`quantization` must be a scheme"):
        make_tiny(quantization="int8")
    quantized = quantization.quantize(model, Int8())
    with pytest.raises(ValueError, match="quantized already, with Int8"):
        quantization.quantize(quantized, Int8())
    with pytest.raises(ValueError, match="is not quantized"):
        quantization.calibrate_ranges(model, batches_of(model))
    with pytest.raises(ValueError, match="never calibrated"):
        export.export_saved_model(quantized, tmp_path / "served")
    with pytest.raises(ValueError, match="Only a network quantized with"):
        quantization.pack(quantized)
    with pytest.raises(ValueError, match="network of a `PointCascade`"):
        keras_resadapt.PointCascade(quantized, quantization=Int8())
    for bits in (16, 8.0, True):
        with pytest.raises(ValueError, match="`weight_bits` of `Int8`"):
            Int8(weight_bits=bits)
    with pytest.raises(ValueError, match="'out' has no quantized form"):
        keras_resadapt.RSMobileNetV2(
            5, (32,), stem="small", quantization=LearnedQuantization(2, 2)
        )


@pytest.mark.slow
def test_files_of_another_scheme_are_refused(tmp_path):
    schemes = [None, Int8(), LearnedQuantization(2, 32)]
    for i, scheme in enumerate(schemes):
        model = make_tiny(resolutions=(32,), quantization=scheme)
        model.save_weights(tmp_path / f"{i}.weights.h5")
    for i, scheme in enumerate(schemes):
        model = make_tiny(resolutions=(32,), quantization=scheme)
        model.load_weights(tmp_path / f"{i}.weights.h5")
        with pytest.raises(ValueError, match="quantization="):
            model.load_weights(tmp_path / f"{(i + 1) % 3}.weights.h5")
    cascade = keras_resadapt.PointCascade(model)
    cascade.save_weights(tmp_path / "cascade.weights.h5")
    other = keras_resadapt.PointCascade(make_tiny(resolutions=(32,)))
    with pytest.raises(ValueError, match="quantization=LearnedQuantization"):
        other.load_weights(tmp_path / "cascade.weights.h5")


@keras.saving.register_keras_serializable("test")
class StockBackbone(backbones.Backbone):
    """A backbone whose convolution does not come from the `LayerSet`."""

    def __init__(self, layers=layers.LayerSet(), **kwargs):
        super().__init__(**kwargs)
        self.stages = [[StockBlock(name="block")]]
        self.stage_strides = [1]

    def get_config(self):
        return {"name": self.name}


class StockBlock(layers.Block):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv = keras.layers.Conv2D(4, 3, name="my_conv")

    def call(self, inputs, point, training=None):
        return point.call(self.conv, inputs)


def test_a_layer_without_a_quantized_form_is_named():
    keras_resadapt.RSNet(StockBackbone(), 5, (32,))
    with pytest.raises(ValueError, match="Conv2D 'my_conv' has no quantized"):
        keras_resadapt.RSNet(StockBackbone(), 5, (32,), quantization=Int8())


# === Fresh processes ===


ORDERS = {
    "package_first": "import keras_resadapt, keras\nimport tensorflow as tf\n",
    "tensorflow_first": ("import tensorflow as tf\nimport keras_resadapt, keras\n"),
}


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
def test_tfmot_comes_late_and_leaves_tf_keras_alone(order):
    output = run_python(
        "import sys\n"
        + ORDERS[order]
        + "late = not any('model_optimization' in m for m in sys.modules)\n"
        "keras_resadapt.RSNet18(5, (32,), depths=(1,), filters=(8,),\n"
        "    quantization=keras_resadapt.quantization.Int8())\n"
        "import os\n"
        "print(late, 'tensorflow_model_optimization' in sys.modules,\n"
        "      tf.keras.layers.Layer is keras.layers.Layer,\n"
        "      'TF_USE_LEGACY_KERAS' in os.environ)\n"
    )
    assert output.split() == ["True", "True", "True", "False"]
