"""Families and tasks are apart: a task that the package does not have."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_tiny, randomize
from keras import ops

import keras_resadapt
from keras_resadapt import OperatingPoint, backbones, inference, layers, tasks, training

RESOLUTIONS = (32, 24, 16)


class UpsampledConv(layers.Block):
    """A 1x1 convolution of the finest features."""

    def __init__(self, layer_set, **kwargs):
        super().__init__(**kwargs)
        # One channel at every width, made of the family's own constructor
        self.conv = layer_set.scaled_conv(1, 1, ratio=None, use_bias=True, name="conv")

    def call(self, pyramid, point, training=None):
        finest = next(iter(pyramid.values()))
        return ops.cast(point.call(self.conv, finest), "float32")


@keras.saving.register_keras_serializable("toy")
class PixelRegression(tasks.Task):
    """One value for each pixel of the image."""

    divergences = ("squared",)

    def __init__(self, scale=1.0):
        self.scale = scale

    def head(self, layers, strides):
        assert list(strides.values()) == sorted(strides.values())
        return UpsampledConv(layers, name="head")

    def check_targets(self, targets):
        if len(targets.shape) != 4:
            raise ValueError(f"`targets` must be maps. Received: {targets.shape}")

    def target_size(self, targets):
        return tuple(targets.shape[1:3])

    def align(self, outputs, size):
        return layers.resize_to_corners(outputs, size)

    def make_loss(self, loss=None):
        return keras.losses.MeanSquaredError() if loss is None else loss

    def divergence(self, name):
        mean_squared = keras.losses.MeanSquaredError()
        return lambda teacher, student, weight=None: mean_squared(
            ops.stop_gradient(teacher), student, weight
        )

    def response(self, outputs, class_names=None):
        return {"map": outputs * self.scale}

    def get_config(self):
        return {"scale": self.scale}


def make_rsnet():
    backbone = backbones.ResNet((1, 1), (8, 16), stem="small")
    return keras_resadapt.RSNet(backbone, PixelRegression(2.0), RESOLUTIONS)


def make_mutual():
    backbone = backbones.MobileNetV1((1, 1), (32, 64), stem="small")
    return keras_resadapt.MutualNet(
        backbone, PixelRegression(2.0), (0.5, 1.0), RESOLUTIONS
    )


@pytest.fixture(params=[make_rsnet, make_mutual], ids=["RSNet", "MutualNet"])
def model(request):
    keras.utils.set_random_seed(0)
    return request.param()


@pytest.fixture
def maps(batch):
    """Images, and their brightness at each pixel."""
    images = batch[0]
    return images, images.mean(axis=-1, keepdims=True) / 255


@pytest.mark.slow
def test_a_task_of_pixels_trains_and_distils(model, maps):
    model.compile(training.SGD(0.005, 0.9), metrics=["mean_absolute_error"])
    before = model.head.conv.kernel.numpy()
    history = model.fit(*maps, batch_size=4, epochs=12, verbose=0).history
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert np.abs(model.head.conv.kernel - before).max() > 0
    name = model.operating_points[0].name
    assert f"{name}_mean_absolute_error" in history
    np.testing.assert_allclose(
        history["mean_absolute_error"], history[f"{name}_mean_absolute_error"]
    )
    with pytest.raises(ValueError, match="`targets` must be maps"):
        model.train_on_batch(maps[0], np.zeros(8))


def test_the_loss_of_an_rsnet_is_that_of_its_task(maps):
    model = make_rsnet()
    images = tuple(layers.resize_bilinear(maps[0], r) for r in RESOLUTIONS)
    outputs = {name: np.array(z) for name, z in model(images).items()}
    assert {z.shape for z in outputs.values()} == {(8, 32, 32, 1)}  # aligned
    points = [outputs[f"r{r}"] for r in RESOLUTIONS]
    mean = np.mean(points, axis=0)
    np.testing.assert_allclose(outputs["ensemble"], mean, rtol=1e-4, atol=1e-5)

    def squared(a, b):
        return np.mean((a - b) ** 2)

    terms = model.loss_terms(maps[1], outputs)
    np.testing.assert_allclose(
        terms["classification"], sum(squared(maps[1], z) for z in points), rtol=1e-5
    )
    teachers = [mean, *points]
    pairs = [(t, s) for s in range(1, 4) for t in range(s)]
    expected = 2 / 4 * sum(squared(teachers[t], teachers[s]) for t, s in pairs)
    np.testing.assert_allclose(terms["distillation"], expected, rtol=1e-4)


def test_outputs_are_aligned_to_the_targets(model, maps):
    """Evaluation at the size of the targets, which is not that of the images."""
    model.compile(metrics=["mean_squared_error"])
    images, targets = maps[0], layers.resize_to_corners(maps[1], (20, 28))
    logs = model.evaluate(images, targets, verbose=0, return_dict=True)
    (point, *_) = model.operating_points
    resized = layers.resize_to_corners(model.logits(images, point), (20, 28))
    expected = np.mean((np.array(resized) - np.array(targets)) ** 2)
    np.testing.assert_allclose(logs["mean_squared_error"], expected, rtol=1e-4)


def test_profile_save_and_export(model, maps, tmp_path):
    (point, *_) = model.operating_points
    rows = model.profile()
    assert rows[0].madds > 0
    full = model.profile([point])[0]
    assert full.madds == rows[0].madds
    model.save(tmp_path / "model.keras")
    copy = keras.saving.load_model(tmp_path / "model.keras")
    assert copy.task == PixelRegression(2.0)
    expected = np.array(model.logits(maps[0], point))
    np.testing.assert_allclose(copy.logits(maps[0], point), expected, atol=1e-6)

    path = str(tmp_path / "served" / "1")
    keras_resadapt.export.export_saved_model(copy, path, encoded=False)
    signature = tf.saved_model.load(path).signatures[point.name]
    answer = signature(images=tf.constant(maps[0]))
    np.testing.assert_allclose(answer["map"], 2 * expected, rtol=1e-4, atol=1e-4)


def test_statistics_of_a_mutualnet_of_pixels(maps):
    model = make_mutual()
    narrow = OperatingPoint(16, 0.5)
    inference.calibrate_batch_norm(model, [maps[0]], [narrow], verbose=False)
    x = layers.resize_bilinear(maps[0], 16)
    assert model.logits(x, narrow).shape == (8, 16, 16, 1)


# === Tasks of the package ===


def test_a_task_is_its_arguments():
    task = tasks.Classification(5, kernel_initializer="zeros")
    config = keras.saving.serialize_keras_object(task)
    copy = keras.saving.deserialize_keras_object(config)
    assert copy == task != tasks.Classification(5)
    assert copy.num_classes == 5 and "num_classes=5" in repr(copy)


@pytest.mark.parametrize("num_classes", [0, 1, -3, 2.5, "5", True, None])
def test_number_of_classes(num_classes):
    with pytest.raises(ValueError, match="`num_classes` must be an integer of at"):
        tasks.Classification(num_classes)


def test_an_integer_is_short_for_classification():
    backbone = backbones.ResNet((1,), (8,), stem="small")
    for model in (
        keras_resadapt.RSNet(backbone, 5, (16,)),
        keras_resadapt.RSNet(backbone, num_classes=np.int64(5), resolutions=(16,)),
        keras_resadapt.RSNet(backbone, tasks.Classification(5), (16,)),
    ):
        assert model.num_classes == 5
        assert isinstance(model.task, tasks.Classification)
    with pytest.raises(ValueError, match="one of `task` and `num_classes`"):
        keras_resadapt.RSNet(backbone, 5, (16,), num_classes=5)
    with pytest.raises(TypeError, match="`task` must be a.*'classes'"):
        keras_resadapt.RSNet(backbone, "classes", (16,))


@pytest.mark.parametrize("pooling, shape", [(None, (16, 16, 16)), ("avg", (16,))])
def test_without_a_classifier(batch, pooling, shape):
    keras.utils.set_random_seed(1)
    top = randomize(make_tiny())
    model = make_tiny(include_top=False, pooling=pooling)
    assert model(batch[0]).shape == (8, *shape)
    headless = top.with_task(tasks.Features(pooling))
    np.testing.assert_allclose(
        headless(batch[0]), top.features(batch[0], pooling=pooling), atol=1e-5
    )
    with pytest.raises(ValueError, match="no loss of its own"):
        headless.compile()
        headless.evaluate(*batch, verbose=0)


def test_features_are_what_the_classifier_sees(tiny, tiny_cascade, batch):
    images = batch[0]
    features = np.array(tiny.features(images, "r32"))
    dense = tiny.head.classifier
    np.testing.assert_allclose(
        features @ dense.kernel.numpy() + dense.bias.numpy(),
        tiny.logits(images, "r32"),
        rtol=1e-4,
        atol=1e-4,
    )
    for exit in range(tiny_cascade.num_exits):
        features = tiny_cascade.features(images, f"exit{exit}", pooling=None)
        np.testing.assert_allclose(
            tiny_cascade.classifiers[exit](features, point=OperatingPoint()),
            tiny_cascade.logits(images, f"exit{exit}"),
            atol=1e-5,
        )
