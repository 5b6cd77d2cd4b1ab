"""LiteRT files: integers, shared weights, and the same outputs as the network."""

import concurrent.futures

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from conftest import make_tiny, make_tiny_cascade, randomize
from test_quantization import batches_of, logits_of

import keras_resadapt
from keras_resadapt import (
    OperatingPoint,
    export,
    inference,
    layers,
    quantization,
)
from keras_resadapt.inference import LiteRTNetwork
from keras_resadapt.inference.storing.confidence import softmax
from keras_resadapt.quantization import Int8, LearnedQuantization

CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def operators(path) -> dict:
    """Returns, by signature, the name and the types of every operator."""
    model = schema.Model.GetRootAs(path.read_bytes(), 0)
    model = schema.ModelT.InitFromObj(model)
    names = {v: k for k, v in vars(schema.BuiltinOperator).items()}
    types = {v: k for k, v in vars(schema.TensorType).items()}
    found = {}
    for graph in model.subgraphs:
        rows = found[graph.name.decode()] = []
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            name = names[max(code.builtinCode, code.deprecatedBuiltinCode)]
            tensors = [*operator.inputs, *operator.outputs]
            rows.append((name, [types[graph.tensors[i].type] for i in tensors]))
    return found


def check_integers(path, convolutions: int) -> None:
    """Checks the number of convolutions of each signature.

    All convolutions must be from 8-bit integers to 8-bit integers."""
    found = operators(path)
    for name, rows in found.items():
        types = [types for op, types in rows if op in CONVOLUTIONS]
        assert len(types) == convolutions[name], name
        assert all(t == ["INT8", "INT8", "INT32", "INT8"] for t in types), name


def pictures(count, seed):
    """Returns noisy images of five patterns that are easy to classify."""
    rng = np.random.default_rng(0)
    patterns = rng.uniform(0, 255, (5, 4, 4, 3)).repeat(4, 1).repeat(4, 2)
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, count)
    noise = rng.uniform(0, 255, (count, 16, 16, 3))
    return (0.4 * patterns[labels] + 0.6 * noise).astype("float32"), labels


@pytest.fixture(scope="module")
def networks():
    """A float network after little training, and its quantized network."""
    keras.utils.set_random_seed(0)
    plain = keras_resadapt.RSNet18(
        5, (16, 8), depths=(1, 2), filters=(64, 96), stem="small"
    )
    plain.compile(keras.optimizers.SGD(0.05, 0.9))
    plain.fit(*pictures(640, 1), batch_size=32, epochs=2, verbose=0)
    quantized = quantization.quantize(plain, Int8())
    quantization.calibrate_ranges(quantized, [pictures(64, 1)], verbose=False)
    return plain, quantized


@pytest.fixture(scope="module")
def float_file(networks, tmp_path_factory):
    """The file of the float network, with one copy of the weights per signature."""
    path = tmp_path_factory.mktemp("litert") / "float.tflite"
    export.export_litert(networks[0], path)
    return path


@pytest.fixture(scope="module")
def int8_file(networks, tmp_path_factory):
    """The file of the quantized network."""
    path = tmp_path_factory.mktemp("litert") / "int8.tflite"
    written = export.export_litert(networks[1], path)
    assert written["signatures"] == ["r16", "r8"]
    assert written["bytes"] == path.stat().st_size
    return path


@pytest.mark.slow
def test_int8_file(networks, float_file, int8_file, tmp_path):
    _, quantized = networks
    points = quantized.operating_points
    size = int8_file.stat().st_size
    one = export.export_litert(quantized, tmp_path / "one.tflite", points[:1])
    assert size <= 1.3 * one["bytes"]
    assert size <= 0.35 * float_file.stat().st_size / len(points)
    # The stem, six in the blocks, the shortcut and the classifier
    check_integers(int8_file, {point.name: 9 for point in points})

    network = LiteRTNetwork(int8_file)
    assert network.names == ["r16", "r8"]
    images, labels = pictures(300, 2)
    for point in points:
        size = quantized.resolution_of(point)
        view = layers.resize_bilinear(tf.constant(images), size)
        outputs = network.logits(view, point.name)
        expected = np.array(quantized.logits(view, point))
        same = outputs.argmax(axis=1) == expected.argmax(axis=1)
        assert (expected.argmax(axis=1) == labels).mean() > 0.9
        assert same.mean() >= 0.99
        assert np.abs(outputs - expected).max() < 0.05 * np.abs(expected).max()
        # Offsets are rounded in the same way, so that most logits are equal.
        equal = np.isclose(outputs, expected, atol=1e-4).all(axis=1)
        assert equal.mean() > 0.6


@pytest.mark.slow
def test_threads_do_not_share_an_interpreter(float_file):
    network = LiteRTNetwork(float_file)
    images = np.random.default_rng(0).uniform(0, 255, (40, 1, 8, 8, 3))
    expected = [network.logits(image, "r8") for image in images]
    order = np.random.default_rng(1).integers(0, 40, 2000)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda i: network.logits(images[i], "r8"), order))
    wrong = sum(
        not np.array_equal(logits, expected[i]) for i, logits in zip(order, got)
    )
    assert wrong == 0


@pytest.mark.slow
def test_float_files_fold_or_share(networks, float_file, tmp_path):
    plain, _ = networks
    shared_file = tmp_path / "shared.tflite"
    shared = export.export_litert(plain, shared_file, share_kernels=True)
    assert shared["bytes"] < 0.6 * float_file.stat().st_size
    (images, _), *_ = batches_of(plain, 1, 4)
    for file in (float_file, shared_file):
        network = LiteRTNetwork(file)
        for point in plain.operating_points:
            size = plain.resolution_of(point)
            view = layers.resize_bilinear(tf.constant(images), size)
            np.testing.assert_allclose(
                network.logits(view, point.name),
                logits_of(plain, images, point),
                atol=1e-4,
            )
    kinds = [op for op, _ in operators(float_file)["r16"]]
    assert kinds.count("MUL") == 1  # of the preprocessing


@pytest.mark.slow
def test_cascade_hands_features_on(tmp_path):
    """Integer exits, and the loop that stops at the first confident one."""
    keras.utils.set_random_seed(0)
    model = make_tiny_cascade()
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if variable.path.endswith("bias"):
            variable.assign(rng.normal(0, 0.3, variable.shape))
    quantized = quantization.quantize(randomize(model), Int8())
    batches = batches_of(quantized, 2, 32)
    quantization.calibrate_ranges(quantized, batches, verbose=False)
    path = tmp_path / "cascade.tflite"
    export.export_litert(quantized, path)
    found = operators(path)
    counts = {
        name: sum(op in CONVOLUTIONS for op, _ in rows) for name, rows in found.items()
    }
    per_layer = len(
        [
            layer
            for layer in quantized._flatten_layers()
            if isinstance(layer, (layers.Conv2D, layers.Dense))
        ]
    )
    # Each layer is in exactly one signature, so that nothing runs twice.
    assert sum(counts.values()) == per_layer
    check_integers(path, counts)

    network = LiteRTNetwork(path)
    images = batches[0][0]
    for point, limit in zip(quantized.operating_points, (1e-6, 0.05, 0.05)):
        expected = logits_of(quantized, images, point)
        error = np.abs(network.logits(images, point.name) - expected).max()
        # Later exits rescale integers, which XNNPACK computes approximately.
        assert error < limit * np.abs(expected).max()

    everywhere = [network.logits(images, name) for name in network.names]
    confidence = [softmax(logits).max(axis=1) for logits in everywhere]
    limits = [float(np.median(c)) for c in confidence[:-1]]
    probabilities, exits = network.adaptive(images, limits)
    expected = np.full(len(images), len(limits))
    for k in reversed(range(len(limits))):
        expected[confidence[k] >= limits[k]] = k
    np.testing.assert_array_equal(exits, expected)
    for row, k in enumerate(exits):
        np.testing.assert_allclose(
            probabilities[row],
            softmax(everywhere[k][row]),
            atol=1e-5,
        )
    assert len(set(exits)) == 3
    _, exits = network.adaptive(images, [1.0, 1.0])
    assert set(exits) == {2}
    nothing, exits = network.adaptive(images[:0], limits)
    assert nothing.shape == (0, 5) and exits.shape == (0,)
    with pytest.raises(ValueError, match="must have 2 numbers"):
        network.adaptive(images, [0.5])


@pytest.mark.slow
def test_widths_of_a_mutualnet(tmp_path):
    keras.utils.set_random_seed(0)
    model = keras_resadapt.MutualMobileNetV1(
        5, (0.5, 1.0), (32, 24), depths=(1,), filters=(16,), stem="small"
    )
    data = batches_of(model)
    points = [OperatingPoint(32, 1.0), OperatingPoint(24, 0.5)]
    inference.calibrate_batch_norm(model, data, points, verbose=False)
    quantized = quantization.quantize(model, Int8())
    quantization.calibrate_ranges(quantized, data, points, verbose=False)
    path = tmp_path / "mutual.tflite"
    export.export_litert(quantized, path, points)
    # The stem, the depthwise and pointwise convolutions and the classifier
    check_integers(path, {point.name: 4 for point in points})
    network = LiteRTNetwork(path)
    images = data[0][0]
    for point in points:
        view = layers.resize_bilinear(tf.constant(images), point.resolution)
        np.testing.assert_allclose(
            network.logits(view, point.name),
            logits_of(quantized, images, point),
            atol=1e-5,
        )


@pytest.mark.slow
def test_scales_of_next_to_nothing(tmp_path):
    """Scales that weight decay has driven to zero."""
    keras.utils.set_random_seed(0)
    model = randomize(make_tiny(resolutions=(32,)))
    for variable in model.variables:
        if variable.path.endswith("gamma"):
            variable.assign(np.resize([1.0, 0.0, 1e-7, -1e-5], variable.shape))
        elif variable.path.endswith("beta"):
            variable.assign(np.ones(variable.shape))
    conv = model.backbone.stages[1][0].convs[0]
    conv.kernel.assign(conv.kernel * np.resize([0.0, 1.0], 8))
    quantized = quantization.quantize(model, Int8())
    batches = batches_of(quantized)
    quantization.calibrate_ranges(quantized, batches, verbose=False)
    path = tmp_path / "small.tflite"
    export.export_litert(quantized, path)
    check_integers(path, {"main": 7})  # the only one
    images = batches[0][0]
    expected = logits_of(quantized, images, quantized.operating_points[0])
    error = np.abs(LiteRTNetwork(path).logits(images, "r32") - expected).max()
    assert error < 0.03 * np.abs(expected).max()


@pytest.mark.slow
def test_cascades_share_kernels_too(tmp_path):
    network = keras_resadapt.RSNet18(
        5, (32, 16), depths=(1, 1), filters=(64, 64), stem="small"
    )
    model = keras_resadapt.PointCascade(randomize(network))
    shared = export.export_litert(model, tmp_path / "shared", share_kernels=True)
    kernels = sum(v.numpy().nbytes for v in model.variables if v.name == "kernel")
    assert shared["bytes"] < 1.2 * kernels
    (images, _), *_ = batches_of(model, 1, 4)
    for point in model.operating_points:
        outputs = LiteRTNetwork(tmp_path / "shared").logits(images, point.name)
        expected = np.array(model.logits(images, point))
        np.testing.assert_allclose(outputs, expected, atol=1e-4)


@pytest.mark.slow
def test_learned_levels_in_float(tmp_path):
    model = randomize(
        keras_resadapt.RSNet18(
            5,
            (32,),
            depths=(1, 1),
            filters=(32, 64),
            stem="small",
            quantization=LearnedQuantization(2, 2),
        )
    )
    batches = batches_of(model)
    quantization.calibrate_ranges(model, batches, verbose=False)
    # The converter does not support packed weights.
    packed = quantization.pack(model)
    export.export_litert(packed, tmp_path / "learned.tflite")
    network = LiteRTNetwork(tmp_path / "learned.tflite")
    images = batches[0][0]
    expected = logits_of(model, images, model.operating_points[0])
    outputs = network.logits(images, "r32")
    # A value next to a threshold can be rounded to the other level.
    assert np.median(np.abs(outputs - expected)) < 1e-4


@pytest.mark.slow
def test_bad_input(networks, int8_file, tmp_path):
    _, quantized = networks
    path = tmp_path / "there.tflite"
    path.write_bytes(b"")
    with pytest.raises(FileExistsError, match="must not exist"):
        export.export_litert(quantized, path)
    with pytest.raises(TypeError, match="`model` must be a network"):
        export.export_litert(keras.Sequential(), tmp_path / "new.tflite")
    uncalibrated = make_tiny(resolutions=(32,), quantization=Int8())
    with pytest.raises(ValueError, match="at 'r32' were never calibrated"):
        export.export_litert(uncalibrated, tmp_path / "new.tflite")
    four = make_tiny(resolutions=(32,), quantization=Int8(weight_bits=4))
    quantization.calibrate_ranges(four, batches_of(four), verbose=False)
    with pytest.raises(ValueError, match="integers have 8 bits"):
        export.export_litert(four, tmp_path / "new.tflite")
    coarse = make_tiny(resolutions=(32,), quantization=Int8(per_channel=False))
    quantization.calibrate_ranges(coarse, batches_of(coarse), verbose=False)
    with pytest.raises(ValueError, match="one scale per output channel"):
        export.export_litert(coarse, tmp_path / "new.tflite")
    half = make_tiny(resolutions=(32,), dtype="mixed_bfloat16")
    with pytest.raises(ValueError, match="policy 'mixed_bfloat16'"):
        export.export_litert(half, tmp_path / "new.tflite")
    cascade = make_tiny_cascade()
    with pytest.raises(ValueError, match="begin with exit 0"):
        export.export_litert(
            cascade, tmp_path / "new.tflite", cascade.operating_points[1:]
        )
    assert sorted(tmp_path.iterdir()) == [path]
    network = LiteRTNetwork(int8_file)
    with pytest.raises(ValueError, match="must be one of"):
        network.logits(np.zeros(1), "r24")
    with pytest.raises(ValueError, match="does not hold a cascade"):
        network.adaptive(np.zeros(1), [])
    for shape in ((2, 16, 16, 3), (8, 8, 3)):
        with pytest.raises(ValueError, match=r"\(None, 8, 8, 3\)"):
            network.logits(np.zeros(shape), "r8")
    assert network.logits(np.zeros((0, 8, 8, 3)), "r8").shape == (0, 5)
    with pytest.raises(ValueError, match="`num_threads` must be a positive"):
        LiteRTNetwork(int8_file, num_threads=0)
    with pytest.raises(FileNotFoundError):
        LiteRTNetwork(tmp_path / "missing.tflite")
