"""RefineNet and Light-Weight RefineNet compute what DrSleep's ports compute."""

import dataclasses
import json
import pathlib
import re

import golden
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import keras_resadapt
from keras_resadapt import OperatingPoint, backbones, convert, heads, layers, tasks
from keras_resadapt.profile import profile_point

GOLDEN = pathlib.Path(__file__).parents[1] / ".." / "shared" / "golden" / "dense"


def load(name):
    path = GOLDEN / f"{name}.json"
    if not path.exists():
        pytest.skip("../shared/golden/dense is not here")
    return json.loads(path.read_text())


def state_dict(reference):
    """The reference network's weights, by its rule."""
    weights = {}
    for key, shape, _ in reference["state_dict"]:
        factors = [f for p, f in reference["weight_scale"] if re.match(p, key)]
        value = golden.array(key, shape)
        if factors:
            value = (value.astype("float64") * factors[0]).astype("float32")
        weights[key] = value
    return weights


@dataclasses.dataclass(frozen=True)
class WatchingPoint(OperatingPoint):
    """An operating point that keeps the last output of every layer."""

    outputs: dict = dataclasses.field(default_factory=dict)

    def call(self, layer, inputs, **kwargs):
        outputs = super().call(layer, inputs, **kwargs)
        self.outputs[id(layer)] = outputs
        return outputs


def stage_layers(model):
    """The layer whose output is that of a stage of the reference."""
    (stem,), *stages = model.backbone.stages
    found = {"bn1": stem.conv1, "maxpool": stem.pool}
    found |= {f"layer{i}": stage[-1].out for i, stage in enumerate(stages, 1)}
    for i, level in enumerate(model.head.levels, 1):
        found[f"p_ims1d2_outl{i}_dimred"] = level.reduce
        found[f"mflow_conv_g{i}_pool"] = level.pooling.sums[-1]
        if level.units:
            found[f"adapt_stage{i}_b"] = level.units[-1].out
            found[f"mflow_conv_g{i}_b"] = level.out_units[-1].out
        if level.fuse is not None:
            found[f"adapt_stage{i}_b2_joint_varout_dimred"] = level.fuse
        if level.out_conv is not None:
            found[f"mflow_conv_g{i}_b3_joint_varout_dimred"] = level.out_conv
    return found | {"clf_conv": model.head.classifier}


def check_summary(value, expected, rtol=2e-5):
    value = np.asarray(value, "float64")
    batch, height, width, channels = value.shape
    assert expected["shape"] == [batch, channels, height, width]
    np.testing.assert_allclose(np.linalg.norm(value), expected["l2"], rtol=rtol)
    np.testing.assert_allclose(np.abs(value).mean(), expected["abs_mean"], rtol=rtol)
    atol = rtol * expected["abs_mean"] * value.size
    np.testing.assert_allclose(value.sum(), expected["sum"], atol=atol)


CASES = {
    "refinenet_lw_resnet50": lambda: keras_resadapt.RSRefineNet50(
        resolutions=96, preprocessing=None, decoder="light_weight_refinenet"
    ),
    "refinenet_resnet101": lambda: keras_resadapt.RSRefineNet101(
        resolutions=96, preprocessing=None
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_golden_numbers(name):
    reference = load(name)
    (case,) = reference["cases"]
    height, width = case["input_size"]
    model = CASES[name]()
    convert.load_pytorch_state_dict(model, state_dict(reference))
    params = sum(np.prod(v.shape) for v in model.trainable_variables)
    assert params == reference["num_params"]

    # Multiply-adds, layer by layer
    row = profile_point(
        lambda x, p: model.call(x, point=p, training=True),
        (height, width, 3),
        model.operating_points[0],
    )
    assert (row.madds, row.params) == (case["madds"], reference["num_params"])

    images = np.random.default_rng(0).uniform(-1, 1, (1, 3, height, width))
    images = images.astype("float32").transpose(0, 2, 3, 1)
    point = OperatingPoint(96).interpreted_by(WatchingPoint)
    logits = np.array(model.logits(images, point))
    for stage, layer in stage_layers(model).items():
        expected = case["stages_in_execution_order"][stage]
        check_summary(point.outputs[id(layer)], expected)
    for i, expected in case["upsampled"].items():
        level = model.head.levels[int(i[1:]) - 1]
        size = expected["shape"][2:]
        coarse = point.outputs[id(level.out)]
        check_summary(layers.resize_to_corners(coarse, size), expected)

    scale = case["logits"]["max_abs"]
    check_summary(logits, case["logits"])
    np.testing.assert_allclose(
        logits[0, 5:8, 10:13].transpose(2, 0, 1),
        case["logits_rows_5_to_7_columns_10_to_12"],
        atol=5e-6 * scale,
    )
    np.testing.assert_allclose(
        logits.sum(axis=(0, 1, 2)), case["logits_sum_per_class"], atol=1e-3 * scale
    )
    resized = np.array(model.task.align(tf.constant(logits), (height, width)))
    check_summary(resized, case["resized_logits"])
    counts = np.bincount(resized.argmax(-1).ravel(), minlength=40)
    expected = case["resized_logits"]["argmax_counts"]
    assert np.abs(counts - np.array(expected)).sum() <= 4  # ties by rounding

    check_loss(model, images, case["loss"])


def check_loss(model, images, expected):
    shape = images.shape[:3]
    labels = np.random.default_rng(1).integers(0, 40, shape)
    labels[np.random.default_rng(2).uniform(0, 1, shape) < 0.1] = 255
    assert (labels != 255).sum() == expected["labelled_pixels"]
    watched = convert_names(model)
    with tf.GradientTape() as tape:
        logits = model.task.align(model.logits(images, "r96"), shape[1:])
        loss = model.task.make_loss()(labels, logits)
    np.testing.assert_allclose(loss, expected["value"], rtol=1e-6)
    variables = model.trainable_variables
    gradients = tape.gradient(loss, variables)
    norms = {v.path: float(tf.norm(g)) for v, g in zip(variables, gradients)}
    total = np.sqrt(sum(norm**2 for norm in norms.values()))
    np.testing.assert_allclose(total, expected["grad_l2_all"], rtol=1e-4)
    for key, norm in expected["grad_l2_float64"].items():
        np.testing.assert_allclose(norms[watched[key].path], norm, rtol=3e-4)


def convert_names(model):
    """The variable of each key of the checkpoint."""
    from keras_resadapt.convert.rsnet import rsnet_targets

    marks = ("adapt_stage1_b.0.1_conv.weight",)
    if type(model.head) is heads.LightWeightRefineNet:
        marks = ("mflow_conv_g1_pool.0.1_outvar_dimred.weight",)
    targets = rsnet_targets(model, dict.fromkeys(marks))
    return {key: variables[0] for key, (variables, _) in targets.items()}


@pytest.mark.slow
def test_parameters_of_three_resolutions():
    model = keras_resadapt.RSRefineNet101()
    assert [p.name for p in model.operating_points] == ["r352", "r224", "r96"]
    params = sum(np.prod(v.shape) for v in model.trainable_variables)
    assert params - len(model.resolutions) == 118_306_920  # without alpha


# === The decoders ===


def make_decoder(kind, num_levels=4, channels=8):
    keras.utils.set_random_seed(0)
    return kind(3, channels, num_levels=num_levels)


def pyramid(height, width):
    rng = np.random.default_rng(0)
    sizes = [(-(-height // s), -(-width // s)) for s in (4, 8, 16, 32)]
    return {
        f"P{i}": tf.constant(rng.normal(size=(2, *size, 16)).astype("float32"))
        for i, size in enumerate(sizes, 2)
    }


def reference_decoder(head, features):
    """The decoder in plain operations of TensorFlow."""

    def conv(layer, x):
        y = tf.nn.conv2d(x, layer.kernel.value, 1, "SAME")
        return y + layer.bias.value if layer.use_bias else y

    def unit(block, x):
        y = conv(block.conv1, tf.nn.relu(x))
        return x + conv(block.conv2, tf.nn.relu(y))

    coarser = None
    for level, x in zip(head.levels, list(features.values())[::-1]):
        x = conv(level.reduce, x)
        for block in level.units:
            x = unit(block, x)
        if coarser is not None:
            x = conv(level.fuse, x) + tf.compat.v1.image.resize_bilinear(
                coarser, x.shape[1:3], align_corners=True
            )
        x = step = tf.nn.relu(x)
        for layer in level.pooling.convs:
            step = conv(layer, tf.nn.max_pool2d(step, 5, 1, "SAME"))
            x = x + step
        for block in level.out_units:
            x = unit(block, x)
        coarser = x if level.out_conv is None else conv(level.out_conv, x)
    return conv(head.classifier, coarser)


@pytest.mark.parametrize("kind", [heads.RefineNet, heads.LightWeightRefineNet])
@pytest.mark.parametrize("size", [(64, 96), (77, 101)])
def test_a_decoder_in_plain_operations(kind, size):
    head = make_decoder(kind)
    features = pyramid(*size)
    logits = head(features, point=OperatingPoint())
    for v in head.trainable_variables:  # of a size that shows mistakes
        shape = v.shape
        scale = 0.5 / np.sqrt(max(np.prod(shape[:-1]), 1))
        v.assign(np.random.default_rng(1).normal(size=shape) * scale)
    logits = head(features, point=OperatingPoint())
    assert logits.shape == (2, -(-size[0] // 4), -(-size[1] // 4), 3)
    expected = np.array(reference_decoder(head, features))
    np.testing.assert_allclose(logits, expected, atol=2e-6 * np.abs(expected).max())


def test_dropout_of_the_decoders():
    """Of the two coarsest levels, and before the full decoder's classifier."""
    features = {k: ops.ones_like(v) for k, v in pyramid(64, 64).items()}
    for kind, calls in ((heads.RefineNet, 3), (heads.LightWeightRefineNet, 2)):
        head = make_decoder(kind)
        assert head.dropout.rate == 0.5
        seen = []
        point = OperatingPoint().interpreted_by(WatchingPoint)
        call = head.dropout.call

        def count(x, training=None, call=call, seen=seen):
            seen.append((tuple(x.shape[1:3]), training))
            return call(x, training=training)

        head.dropout.call = count
        outputs = [np.array(head(features, point=point)) for _ in range(2)]
        np.testing.assert_array_equal(*outputs)
        assert [size for size, _ in seen[:calls]][:2] == [(2, 2), (4, 4)]
        assert len(seen) == 2 * calls


def test_other_backbones_and_levels():
    for backbone in (
        backbones.ResNet((1, 1), (8, 16), stem="small"),
        backbones.MobileNetV2(alpha=0.25),
        backbones.VGG((1, 1, 1, 1, 1), (8, 8, 8, 16, 16)),
    ):
        task = tasks.Segmentation(3, channels=8)
        model = keras_resadapt.RSNet(backbone, task, (32,))
        images = np.zeros((1, 64, 96, 3), "float32")
        finest = list(backbone.level_strides.values())[-4:][0]
        logits = model.logits(images, "r32")
        assert logits.shape == (1, 64 // finest, 96 // finest, 3), type(backbone)
        assert np.isfinite(model.logits(images[:, :33, :47], "r32")).all()


# === Checkpoints ===


def make_tiny(decoder="refinenet", num_classes=4, resolutions=(32, 16), depth=1):
    return keras_resadapt.RSRefineNet18(
        num_classes,
        resolutions,
        decoder=decoder,
        channels=8,
        depths=(depth, 1),
        filters=(8, 16),
        stem="small",
    )


def checkpoint_of(model):
    """A checkpoint of DrSleep's names with the shapes of a model."""
    names = convert_names(model)
    rng = np.random.default_rng(0)
    result = {}
    for key, variable in names.items():
        shape = tuple(variable.shape)
        if len(shape) == 4:
            shape = (shape[3], shape[2], *shape[:2])
        result[key] = rng.uniform(0.1, 1, shape).astype("float32")
    return result


@pytest.mark.parametrize("decoder", tasks.segmentation.DECODERS)
def test_checkpoints_of_both_decoders(decoder):
    model = make_tiny(decoder)
    checkpoint = checkpoint_of(model)
    convert.load_pytorch_state_dict(model, {"state_dict": checkpoint})
    kernel = checkpoint["clf_conv.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(model.head.classifier.kernel, kernel)
    stem = model.backbone.stages[0][0]
    for branch in stem.bn1.branches:  # every resolution starts with it
        np.testing.assert_array_equal(branch.gamma, checkpoint["bn1.weight"])

    (other,) = set(tasks.segmentation.DECODERS) - {decoder}
    before = model.head.classifier.kernel.numpy()
    with pytest.raises(ValueError, match="must have the decoder of the model"):
        convert.load_pytorch_state_dict(model, checkpoint_of(make_tiny(other)))
    np.testing.assert_array_equal(model.head.classifier.kernel, before)
    with pytest.raises(ValueError, match="of another shape: clf_conv"):
        convert.load_pytorch_state_dict(make_tiny(decoder, num_classes=5), checkpoint)
    with pytest.raises(ValueError, match="must have the decoder of the model"):
        classifier = keras_resadapt.RSNet18(
            4, (32,), depths=(1, 1), filters=(8, 16), stem="small"
        )
        convert.load_pytorch_state_dict(classifier, checkpoint)


def test_a_classifier_as_a_warm_start():
    """Of torchvision, and of the RS-Net authors with private statistics."""
    model = make_tiny("light_weight_refinenet")
    plain = {
        key: value
        for key, value in checkpoint_of(model).items()
        if key.startswith(("conv1", "bn1", "layer"))
    }
    private = {}
    for key, value in plain.items():
        name, kind = key.rsplit(".", 1)
        if "bn" in name or "downsample.1" in name:
            private |= {f"{name}.bn_{i}.{kind}": value + i for i in range(2)}
        else:
            private[f"{name}.module.{kind}"] = value
    for fc, checkpoint in (("fc", plain), ("fc.module", private)):
        classifier = {
            f"{fc}.weight": np.ones((10, 16), "float32"),
            f"{fc}.bias": np.ones(10, "float32"),
        }
        if checkpoint is private:
            classifier["alpha"] = np.ones(2, "float32")
        before = [np.array(v) for v in model.head.variables]
        for v in model.backbone.variables:
            v.assign(np.zeros(v.shape))
        convert.load_pytorch_state_dict(model, checkpoint | classifier)
        for v, value in zip(model.head.variables, before):
            np.testing.assert_array_equal(v, value)
        branches = model.backbone.stages[0][0].bn1.branches
        for i, branch in enumerate(branches):
            expected = plain["bn1.weight"] + (i if checkpoint is private else 0)
            np.testing.assert_array_equal(branch.gamma, expected)
    with pytest.raises(ValueError, match="missing: layer1.1.bn1"):
        convert.load_pytorch_state_dict(make_tiny(depth=2), plain)
