"""Tests for all families: points, metrics, precision, weights files, prediction."""

import json
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_tiny, make_tiny_cascade

import keras_resadapt
from keras_resadapt import OperatingPoint, backbones, layers, training


def make_mutual(**kwargs):
    return keras_resadapt.MutualMobileNetV1(
        5, resolutions=(32, 16), depths=(1, 1), filters=(32, 64), **kwargs
    )


# === Operating points ===


@pytest.mark.parametrize(
    "make, point, message",
    [
        (make_tiny, OperatingPoint(24), "'r24'.*24 x 24.*32 x 32"),
        (make_tiny, OperatingPoint(32, 0.5), "neither a width nor an exit"),
        (make_tiny, OperatingPoint(exit=0), "must have a resolution"),
        (make_tiny_cascade, OperatingPoint(32, exit=0), "without a resolution"),
        (make_tiny_cascade, OperatingPoint(32), "without a resolution"),
        (make_tiny_cascade, OperatingPoint(exit=9), "from 0 to 2"),
        (make_mutual, OperatingPoint(32, 1.5), "width must be from 0.25 to 1"),
        (make_mutual, OperatingPoint(24, 1.0), "resolution must be one of"),
        (make_mutual, OperatingPoint(16, 1.0), "'r16_w100'.*16 x 16.*32 x 32"),
    ],
)
def test_points_are_checked(make, point, message, batch):
    model = make()
    with pytest.raises(ValueError, match=message):
        model(batch[0], point=point)
    with pytest.raises(ValueError, match=message):
        model.logits(batch[0], point)


def test_points_by_name(tiny, batch):
    np.testing.assert_array_equal(
        tiny.logits(batch[0], "r32"), tiny.logits(batch[0], OperatingPoint(32))
    )
    with pytest.raises(ValueError, match=r"one of \['r32', 'r24', 'r16'\].*'r31'"):
        tiny.logits(batch[0], "r31")
    with pytest.raises(TypeError, match="`point`.*32"):
        tiny.logits(batch[0], 32)


@pytest.mark.parametrize("make", [make_tiny, make_mutual])
def test_images_that_are_not_square(make):
    images = np.zeros((2, 32, 24, 3), "float32")
    model = make()
    with pytest.raises(ValueError, match="shape.*32, 24"):
        model(images)
    with pytest.raises(ValueError, match="32 x 32.*32 x 24"):
        model.logits(images, model.operating_points[0])


def test_a_point_in_a_functional_model_is_saved(tmp_path):
    inputs = keras.Input((16, 16, 3))
    backbone = backbones.ResNet((1, 1), (8, 16), stem="small")
    outputs = backbone(inputs, point=OperatingPoint(16))
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(outputs))
    model.save(tmp_path / "model.keras")
    copy = keras.saving.load_model(tmp_path / "model.keras")
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 3))
    np.testing.assert_allclose(copy(images), model(images), atol=1e-6)
    # A backbone of plain layers depends on no axis of a point.
    np.testing.assert_allclose(
        backbone(images), backbone(images, point=OperatingPoint(16))
    )


def test_inputs_of_unknown_size(tiny, batch):
    images = keras.Input((None, None, 3))
    with pytest.raises(ValueError, match="known resolution"):
        tiny(images)
    model = keras.Model(images, tiny(images, point=OperatingPoint(32)))
    np.testing.assert_allclose(model(batch[0]), tiny(batch[0]), atol=1e-5)


# === Pyramids ===

BACKBONES = {
    "resnet": lambda **kw: backbones.ResNet((1, 1, 1, 1), (8, 8, 16, 16), **kw),
    "bottleneck": lambda **kw: backbones.ResNet((1, 1), (8, 8), True, **kw),
    "pre_activation": lambda **kw: backbones.ResNet(
        (1, 1), (8, 16), pre_activation=True, **kw
    ),
    "mobilenet_v1": lambda **kw: backbones.MobileNetV1((1, 1, 1), (16, 32, 32), **kw),
    "mobilenet_v2": lambda **kw: backbones.MobileNetV2(
        (1, 1, 1), (16, 16, 24), (1, 2, 2), (1, 6, 6), **kw
    ),
    "densenet": lambda **kw: backbones.DenseNet((1, 1, 1), 8, **kw),
    "vgg": lambda **kw: backbones.VGG((1, 1, 1), (8, 16, 16), **kw),
}


@pytest.mark.parametrize("stem", ["imagenet", "small"])
@pytest.mark.parametrize("name", BACKBONES)
def test_pyramid_of_plain_backbones(name, stem):
    backbone = BACKBONES[name](stem=stem)
    levels = backbone.levels(resolution=64)
    images = np.random.default_rng(0).normal(size=(1, 64, 64, 3)).astype("float32")
    pyramid = backbone.pyramid(images)
    assert list(levels) == list(pyramid) == list(backbone.level_strides)
    for level, x in pyramid.items():
        stride = levels[level].stride
        assert 2 ** int(level[1:]) == stride == backbone.level_strides[level]
        assert x.shape == (1, 64 // stride, 64 // stride, levels[level].channels)
    np.testing.assert_allclose(x, backbone(images), atol=1e-4)
    assert stride == backbone.stride


@pytest.mark.parametrize("name", ["resnet", "mobilenet_v1", "mobilenet_v2", "vgg"])
@pytest.mark.parametrize("quantized", [False, True])
def test_pyramid_of_families(name, quantized):
    if quantized and name in ("vgg", "mobilenet_v1"):
        pytest.skip("the other backbones show it")
    scheme = keras_resadapt.quantization.Int8() if quantized else None
    backbone = BACKBONES[name](stem="small")
    rng = np.random.default_rng(0)
    rsnet = keras_resadapt.RSNet(backbone, 5, (32, 16), quantization=scheme)
    mutual = keras_resadapt.MutualNet(
        backbone, 5, (0.5, 1.0), (32, 16), quantization=scheme
    )
    for model, points in (
        (rsnet, rsnet.operating_points),
        (mutual, [OperatingPoint(32, 1.0), OperatingPoint(16, 0.5)]),
    ):
        for point in points:
            size = point.resolution
            x = rng.normal(size=(2, size, size, 3)).astype("float32")
            # Sub-networks of a `MutualNet` have no running statistics.
            training = model is mutual
            pyramid = model.backbone.pyramid(x, point, training=training)
            levels = model.backbone.levels(point)
            assert list(levels) == list(pyramid)
            for level, features in pyramid.items():
                assert features.shape[-1] == levels[level].channels
                assert features.shape[1] == -(-size // levels[level].stride)
            np.testing.assert_allclose(
                features,
                model.backbone(x, point=point, training=training),
                atol=1e-6,
            )


# === Metrics ===


@keras.saving.register_keras_serializable("test_network")
class Counter(keras.metrics.Metric):
    """Counts images; needs an argument."""

    def __init__(self, step, name="counter", **kwargs):
        super().__init__(name=name, **kwargs)
        self.step = step
        self.count = self.add_variable((), initializer="zeros", name="count")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.count.assign_add(self.step * keras.ops.shape(y_pred)[0])

    def result(self):
        return self.count


@pytest.mark.slow
def test_the_headline_point_under_the_plain_name(tiny, tiny_cascade, batch):
    for model, headline in ((tiny, "r32"), (tiny_cascade, "exit2")):
        model.compile(training.SGD(0.01), metrics=["accuracy"], run_eagerly=True)
        stop = keras.callbacks.EarlyStopping("val_accuracy", patience=5)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # also that a monitor is not there
            history = model.fit(
                *batch, validation_data=batch, verbose=0, callbacks=[stop]
            ).history
        np.testing.assert_array_equal(
            history["val_accuracy"], history[f"val_{headline}_accuracy"]
        )


def test_metric_objects_count(tiny, batch):
    passed = keras.metrics.SparseCategoricalAccuracy(name="right")
    unregistered = keras.metrics.MeanMetricWrapper(
        lambda y, p: keras.ops.max(p, axis=-1), name="largest"
    )
    tiny.compile(metrics=[passed, unregistered, lambda: Counter(2)])
    logs = tiny.evaluate(*batch, verbose=0, return_dict=True)
    assert float(passed.result()) == logs["right"] == logs["r32_right"]
    assert logs["counter"] == logs["r16_counter"] == logs["ensemble_counter"] == 16
    outputs = tiny(tuple(layers.resize_bilinear(batch[0], r) for r in (32, 24, 16)))
    for name, z in outputs.items():
        expected = np.max(z, axis=-1).mean()
        np.testing.assert_allclose(logs[f"{name}_largest"], expected, rtol=1e-5)
    with pytest.raises(ValueError, match="`metrics` holds 'counter'.*its class"):
        tiny.compile(metrics=[Counter(1)])  # its configuration has no `step`


def test_metrics_of_probabilities(batch):
    model = make_tiny(resolutions=(32,))
    images, labels = batch
    model.compile(
        metrics=[
            keras.metrics.Precision(thresholds=0.2, name="p"),
            keras.metrics.AUC(name="auc"),
            keras.metrics.F1Score(average="macro", name="f1"),
            "Recall",
            keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2"),
        ]
    )
    logs = model.evaluate(images, labels, verbose=0, return_dict=True)
    p = np.array(keras.ops.softmax(model(images)))
    hot = np.eye(5)[labels]
    chosen = p > 0.2
    np.testing.assert_allclose(
        logs["p"], (chosen & (hot == 1)).sum() / max(chosen.sum(), 1), rtol=1e-5
    )
    recalled = (p > 0.5) & (hot == 1)
    np.testing.assert_allclose(logs["recall"], recalled.sum() / 8, rtol=1e-5)
    assert {"auc", "f1", "top2", "r32_auc"} <= set(logs)


# === Training ===


@pytest.mark.parametrize("make", [make_tiny, make_tiny_cascade, make_mutual])
def test_a_step_is_traced_once(make, batch, monkeypatch):
    """TensorFlow traces a step again whose first trace created variables."""
    model = make()
    model.compile(keras.optimizers.SGD(0.01, 0.9), metrics=["accuracy"])
    traces = []
    prepare = type(model)._prepare
    monkeypatch.setattr(
        type(model),
        "_prepare",
        lambda self, *args, **kwargs: (
            traces.append(1) or prepare(self, *args, **kwargs)
        ),
    )
    model.fit(*batch, batch_size=4, verbose=0)
    assert traces == [1]


def test_loss_weights_are_refused(tiny):
    with pytest.raises(ValueError, match="`loss_weights` must be None.*2.0"):
        tiny.compile(loss_weights=2.0)


def test_sample_weights_as_a_column(tiny, batch):
    weights = np.linspace(0, 1, 8).astype("float32")
    losses = []
    for given in (weights, weights[:, None]):
        tiny.compile()
        losses.append(tiny.evaluate(*batch, sample_weight=given, verbose=0))
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.parametrize("label, message", [(-2, "smallest.*-2"), (7, "largest.*7")])
def test_a_wrong_label_is_named(tiny, batch, label, message):
    labels = batch[1].copy()
    labels[5] = label
    tiny.compile()
    with pytest.raises(tf.errors.InvalidArgumentError, match="(?s)0 to 4.*" + message):
        tiny.evaluate(batch[0], labels, verbose=0)


def test_a_data_set_of_dicts(tiny, batch):
    tiny.compile()
    data = tf.data.Dataset.from_tensors(({"image": batch[0]}, batch[1]))
    with pytest.raises(ValueError, match=r"\(images, targets\).*\['image'\]"):
        tiny.fit(data, verbose=0)


def test_training_inside_another_model_drops_calibrated_points(batch):
    mutual = make_mutual()
    point = OperatingPoint(16, 0.5)
    keras_resadapt.inference.calibrate_batch_norm(
        mutual, [batch], [point], verbose=False
    )
    assert point in mutual.operating_points
    inputs = keras.Input((32, 32, 3))
    outer = keras.Model(inputs, keras.layers.Dense(2)(mutual(inputs)))
    outer.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    outer.fit(batch[0], batch[1] % 2, verbose=0)
    assert mutual.operating_points == (mutual.full_point,)


# === Precision ===


@pytest.mark.parametrize("saved, default", [("mixed_bfloat16", "float32")] * 1)
def test_a_saved_policy_is_that_of_all_layers(saved, default, batch, tmp_path):
    for make in (make_tiny, make_tiny_cascade):
        model = make(dtype=saved)
        model.save(tmp_path / "model.keras")
        copy = keras.saving.load_model(tmp_path / "model.keras")
        assert keras.config.dtype_policy().name == default
        for network in (model, copy):
            policies = {
                layer.dtype_policy.name
                for layer in network._flatten_layers()
                if layer.variables
            }
            assert policies == {saved}
    model = make_tiny()
    model.save(tmp_path / "float32.keras")
    keras.config.set_dtype_policy(saved)
    try:
        copy = keras.saving.load_model(tmp_path / "float32.keras")
    finally:
        keras.config.set_dtype_policy(default)
    np.testing.assert_allclose(copy(batch[0]), model(batch[0]), atol=1e-5)


# === Weights ===


def test_paths_are_stable():
    paths = [[v.path for v in make_tiny().variables] for _ in range(2)]
    assert paths[0] == paths[1]
    assert "rsnet18/backbone/stem/conv1/kernel" in paths[0]
    assert len(set(paths[0])) == len(paths[0])


def test_weights_of_other_resolutions_are_refused(tmp_path):
    path = str(tmp_path / "net.weights.h5")
    make_tiny(resolutions=(32, 24, 16)).save_weights(path)
    with pytest.raises(ValueError, match=r"resolutions=\[32, 24, 16\].*\[48, 32, 24\]"):
        make_tiny(resolutions=(48, 32, 24), weights=path)
    path = str(tmp_path / "mutual.weights.h5")
    make_mutual().save_weights(path)
    with pytest.raises(ValueError, match=r"width_range=\[0.25, 1.0\].*\[0.5, 1.0\]"):
        make_mutual(width_range=(0.5, 1.0), weights=path)


SMALL_RANET = {
    "scale_list": (1, 2),
    "growth_factors": (2, 1),
    "bottleneck_factors": (2, 1),
    "step": 1,
}


@pytest.mark.parametrize(
    "make, small",
    [
        (keras_resadapt.RANetCIFAR, SMALL_RANET),
        (keras_resadapt.MSDNetCIFARGrowing, {}),
    ],
)
def test_weights_argument_of_cascades(make, small, tmp_path):
    small = {"num_blocks": 2, "channels": 4, "growth_rate": 4, **small}
    path = str(tmp_path / "net.weights.h5")
    model = make(5, **small)
    model.save_weights(path)
    copy = make(5, weights=path, **small)
    for a, b in zip(model.get_weights(), copy.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_keras_quantize_is_refused(tiny):
    with pytest.raises(ValueError, match="quantization.quantize"):
        tiny.quantize("int8")


def test_backbones_of_other_kinds():
    for backbone in ("resnet", keras.layers.Dense(3), keras.Sequential()):
        for family in (keras_resadapt.RSNet, keras_resadapt.MutualNet):
            with pytest.raises(TypeError, match="`backbone` must be a"):
                family(backbone, 5)
        with pytest.raises(TypeError, match="`backbone` must be a"):
            keras_resadapt.MSNet(backbone, 5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda n: make_tiny(n(5), np.array([32, 16]), distillation="none"),
        lambda n: keras_resadapt.RSNet(
            backbones.ResNet(np.array([1, 1]), np.array([8, 16]), stem="small"),
            n(5),
            (n(32), n(16)),
        ),
        lambda n: keras_resadapt.MutualNet(
            backbones.MobileNetV1((n(1),), (n(16),), np.float32(1.0), "small"),
            n(5),
            np.array([0.5, 1.0]),
            np.array([32, 16]),
            num_random_widths=n(1),
            seed=n(3),
            calibrated=np.array([[16, 0.5]]),
        ),
        lambda n: make_tiny_cascade(n(5), distillation_weight=np.float64(0.5)),
        lambda n: keras_resadapt.MSDNetCIFARGrowing(
            n(5), channels=n(4), growth_factors=np.array([1, 2, 4]), num_blocks=n(2)
        ),
        lambda n: keras_resadapt.MSResNet18(
            n(5), np.array([32, 16]), depths=(n(1),), filters=(n(8),), stem="small"
        ),
    ],
    ids=["RSNet18", "RSNet", "MutualNet", "RANet", "MSDNet", "MSNet"],
)
def test_numpy_arguments(make):
    configs = []
    for number in (np.int64, int):
        keras.backend.clear_session()  # so that both get the same names
        configs.append(json.dumps(make(number).get_config()))
    assert configs[0] == configs[1]


# === Prediction ===


def test_predict_without_images(tiny):
    with pytest.raises(ValueError, match="`x` must hold at least one image"):
        tiny.predict(np.zeros((0, 32, 32, 3)), verbose=0)


def test_a_replica_without_images():
    """25 images in batches of 8: the last batch leaves a replica empty."""
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (25, 32, 32, 3)).astype("float32")
    labels = rng.integers(0, 5, 25)
    with training.strategy_scope("mirrored"):
        model = make_tiny()
        model.compile(metrics=["accuracy"])
    np.testing.assert_allclose(
        model.predict(images, batch_size=8, verbose=0), model(images), atol=1e-5
    )
    logs = model.evaluate(images, labels, batch_size=8, verbose=0, return_dict=True)
    correct = np.argmax(model(images), -1) == labels
    np.testing.assert_allclose(logs["r32_accuracy"], correct.mean(), rtol=1e-6)
    views = tuple(layers.resize_bilinear(images, r) for r in (32, 24, 16))
    expected = model.compute_loss(y=labels, y_pred=model(views))
    np.testing.assert_allclose(logs["loss"], expected, rtol=1e-4)


def test_summary_shows_shapes(tiny, capsys):
    tiny.summary()
    assert "?" not in capsys.readouterr().out


def test_labels_of_another_rank(batch):
    """TensorFlow would trace labels of both ranks as tensors of unknown rank."""
    images, labels = batch
    model = make_tiny(resolutions=(32,))
    model.compile()
    ranks = labels, labels[:, None]
    first, second = (model.evaluate(images, y, verbose=0) for y in ranks)
    np.testing.assert_allclose(first, second)
    for y in ranks:
        model.fit(tf.data.Dataset.from_tensors((images, y)), verbose=0)
