import dataclasses

import pytest

from keras_resadapt import OperatingPoint


@pytest.mark.parametrize(
    "axes, name",
    [
        ({"resolution": 224}, "r224"),
        ({"resolution": 160, "width": 0.75, "exit": 2}, "r160_w075_exit2"),
        ({"resolution": 128, "width": 1.0}, "r128_w100"),
        ({"exit": 0}, "exit0"),
    ],
)
def test_name(axes, name):
    assert OperatingPoint(**axes).name == name


def test_a_point_is_a_value():
    point = OperatingPoint(resolution=96)
    assert point == OperatingPoint(resolution=96)
    assert len({point, OperatingPoint(resolution=96)}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        point.resolution = 64


@pytest.mark.parametrize(
    "axes", [{"resolution": 0}, {"resolution": 9.5}, {"width": 0}, {"exit": -1}]
)
def test_bad_axes_are_named(axes):
    (name,) = axes
    with pytest.raises(ValueError, match=f"`{name}`.*{name}="):
        OperatingPoint(**axes)


def test_call_passes_what_a_layer_depends_on():
    class Layer:
        depends_on = ("resolution", "exit")

        def __call__(self, inputs, **kwargs):
            return inputs, kwargs

    point = OperatingPoint(resolution=32, width=0.5, exit=1)
    assert point.call(Layer(), "x") == ("x", {"resolution": 32, "exit": 1})
    assert point.call(lambda x: x, "x") == "x"
