import keras
import numpy as np
import pytest
from conftest import make_tiny, randomize

import keras_resadapt
from keras_resadapt import quantization
from keras_resadapt.convert import load_pytorch_state_dict, rsnet


def state_dict_of(model, private=True):
    """Returns a checkpoint of random arrays that fits a model."""
    marker = {"x.bn_0.weight": 0} if private else {}
    rng = np.random.default_rng(0)
    return {
        key: rng.uniform(0.5, 1.5, _torch_shape(variables[0])).astype("f")
        for key, (variables, _) in rsnet.rsnet_targets(model, marker).items()
    }


def _torch_shape(variable):
    shape = tuple(variable.shape)
    if len(shape) == 4:
        if "depthwise" in variable.path:
            return shape[2], 1, shape[0], shape[1]
        return shape[3], shape[2], shape[0], shape[1]
    return shape[::-1]


def test_wrappers_prefixes_and_alpha(tiny, batch):
    plain = {**state_dict_of(tiny), "alpha": np.array([3.0, 2.0, 1.0], "f")}
    load_pytorch_state_dict(tiny, plain)
    expected = tiny(batch[0]).numpy()
    np.testing.assert_allclose(tiny.alpha, [3, 2, 1])
    other = make_tiny()
    wrapped = {f"module.{k}": v for k, v in plain.items()}
    wrapped["module.bn1.bn_0.num_batches_tracked"] = np.array(7)
    load_pytorch_state_dict(other, {"epoch": 3, "state_dict": wrapped})
    np.testing.assert_allclose(other(batch[0]), expected)


@pytest.mark.parametrize("backbone", ["resnet", "mobilenetv2"])
def test_a_plain_network_starts_every_resolution(backbone):
    if backbone == "resnet":
        model = make_tiny()
        keys = {"layer2.0.downsample.1.running_var", "fc.bias", "conv1.weight"}
    else:
        model = keras_resadapt.RSMobileNetV2(5, (64, 32), alpha=0.25, stem="small")
        keys = {
            "features.1.conv.0.0.weight",
            "features.1.conv.2.weight",
            "features.2.conv.1.1.running_mean",
            "features.2.conv.3.bias",
            "features.18.0.weight",
            "classifier.1.bias",
        }
    checkpoint = state_dict_of(randomize(model), private=False)
    assert keys <= set(checkpoint)
    load_pytorch_state_dict(model, checkpoint)
    bn = model.backbone.stages[1][0]
    bn = bn.bns[0] if backbone == "resnet" else bn.depthwise_bn
    for branch in bn.branches[1:]:
        np.testing.assert_array_equal(branch.gamma, bn.branches[0].gamma)
        np.testing.assert_array_equal(branch.moving_mean, bn.branches[0].moving_mean)


def test_every_problem_is_named_and_nothing_changed(tiny):
    checkpoint = state_dict_of(tiny)
    del checkpoint["fc.module.bias"]
    checkpoint["layer9.0.conv1.module.weight"] = np.zeros((3, 3, 3, 3), "f")
    checkpoint["conv1.module.weight"] = np.zeros((8, 3, 7, 7), "f")
    checkpoint["fc.module.weight"] = np.zeros(3, "f")
    before = tiny.get_weights()
    with pytest.raises(ValueError) as error:
        load_pytorch_state_dict(tiny, checkpoint)
    for key in (
        "missing: fc.module.bias",
        "layer9.0.conv1.module.weight",
        "conv1.module.weight: (8, 3, 7, 7)",
        "fc.module.weight: (3,)",
    ):
        assert key in str(error.value)
    for a, b in zip(before, tiny.get_weights()):
        np.testing.assert_array_equal(a, b)


def test_a_checkpoint_of_more_resolutions(tiny):
    more = state_dict_of(make_tiny(resolutions=(32, 28, 24, 16)))
    with pytest.raises(ValueError, match="not in the model: bn1.bn_3.bias"):
        load_pytorch_state_dict(tiny, more)


@pytest.mark.slow
def test_files(tiny, batch, tmp_path):
    with pytest.raises(ValueError, match="existing file.*nowhere"):
        load_pytorch_state_dict(tiny, "nowhere.pth")
    torch = pytest.importorskip("torch", reason="torch is an optional extra")
    checkpoint = state_dict_of(tiny)
    load_pytorch_state_dict(tiny, checkpoint)
    path = tmp_path / "net.pth.tar"
    tensors = {f"module.{k}": torch.tensor(v) for k, v in checkpoint.items()}
    torch.save({"epoch": 1, "state_dict": tensors}, path)
    other = make_tiny()
    load_pytorch_state_dict(other, path)
    np.testing.assert_allclose(other(batch[0]), tiny(batch[0]))


def test_files_that_hold_no_checkpoint(tiny, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is an optional extra")
    path = tmp_path / "net.pth"
    before = tiny.get_weights()

    def refuses(content, error, message):
        torch.save(content, path)
        with pytest.raises(error, match=message):
            load_pytorch_state_dict(tiny, path)

    refuses([1, 2], TypeError, "holds a mapping .*net.pth', which holds a list")
    refuses(torch.zeros(3), TypeError, "holds a Tensor")
    refuses(tiny.name, TypeError, "holds a str")
    refuses(keras.Model, ValueError, "plain containers only.*UnpicklingError")
    path.write_text("no checkpoint")
    with pytest.raises(ValueError, match="that `torch.save` wrote.*net.pth"):
        load_pytorch_state_dict(tiny, path)
    for a, b in zip(before, tiny.get_weights()):
        np.testing.assert_array_equal(a, b)


def test_values_that_are_no_arrays(tiny):
    checkpoint = state_dict_of(tiny)
    bad = {
        **checkpoint,
        "epoch": None,
        "conv1.module.weight": "text",
        "fc.module.bias": np.ones(5, "complex64"),
        "module.fc.module.weight": np.ones((5, 16), "f"),
        3: np.ones(3),
    }
    with pytest.raises(ValueError) as error:
        load_pytorch_state_dict(tiny, bad)
    for part in (
        "epoch: a NoneType",
        "conv1.module.weight: a str",
        "fc.module.bias: a ndarray",
        "module.fc.module.weight: twice",
        "3: a key that is not a string",
    ):
        assert part in str(error.value)
    with pytest.raises(TypeError, match="mapping or the path.*Received: a list"):
        load_pytorch_state_dict(tiny, [checkpoint])


def test_tensors_of_a_training(tiny):
    """Parameters need gradients, and half precision is common."""
    torch = pytest.importorskip("torch", reason="torch is an optional extra")
    checkpoint = state_dict_of(tiny)
    tensors = {k: torch.tensor(v, requires_grad=True) for k, v in checkpoint.items()}
    tensors["fc.module.bias"] = torch.ones(5, dtype=torch.bfloat16)
    load_pytorch_state_dict(tiny, tensors)
    np.testing.assert_array_equal(tiny.classifier.bias, np.ones(5))


def test_only_known_models():
    with pytest.raises(TypeError, match="RSNet.*Sequential"):
        load_pytorch_state_dict(keras.Sequential(), {})


@pytest.mark.slow
def test_a_quantized_network_fits_its_levels_to_the_checkpoint():
    rng = np.random.default_rng(0)
    checkpoint = {
        key: 0.1 * rng.normal(size=value.shape).astype("f")
        if value.ndim == 4
        else value
        for key, value in state_dict_of(make_tiny()).items()
    }
    expected = make_tiny()
    load_pytorch_state_dict(expected, checkpoint)
    expected = quantization.quantize(expected, quantization.Int8())
    model = make_tiny(quantization=quantization.Int8())
    load_pytorch_state_dict(model, checkpoint)
    images = rng.uniform(0, 255, (4, 32, 32, 3)).astype("f")
    np.testing.assert_array_equal(model(images), expected(images))

    learned = quantization.LearnedQuantization(2, 32)
    packed = quantization.pack(make_tiny(quantization=learned))
    with pytest.raises(ValueError, match="packed weights"):
        load_pytorch_state_dict(packed, checkpoint)
    with pytest.raises(TypeError, match="pre-activation"):
        load_pytorch_state_dict(make_tiny(pre_activation=True), checkpoint)
