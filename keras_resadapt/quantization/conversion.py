"""From a float network to a quantized one."""

import dataclasses

import keras

from keras_resadapt.quantization.learned import (
    LearnedQuantization,
    LearnedWeights,
    PackedWeights,
)
from keras_resadapt.quantization.per_point import SlimmableQuantizer
from keras_resadapt.quantization.quantizers import (
    ActivationQuantizer,
    WeightQuantizer,
)
from keras_resadapt.quantization.scheme import Scheme, check_network


def quantize(model: keras.Model, scheme: Scheme) -> keras.Model:
    """Returns the same network with quantized convolutions and dense layers.

    Weights and BatchNormalization statistics are copied, and the levels of the
    weights are fitted to them. Activation ranges are unknown until
    `calibrate_ranges` or training computes them; until then, the network uses wide
    ranges. Call `compile` to train the network further.

    Thresholds of a cascade belong to the network that they were calibrated on;
    `thresholds.carried_over(model, quantized)` returns those of the new network.

    Args:
        model: A network of this package in float.
        scheme: The quantization, such as `Int8()` or `LearnedQuantization(2, 2)`.

    Returns:
        A new model of the same family, configuration and name.

    Raises:
        TypeError: If `model` is not a network of this package, or `scheme` is not a
            scheme.
        ValueError: If the model is quantized already, or has a layer that the scheme
            cannot quantize.
        RuntimeError: On a backend that the scheme does not support.

    Example:

    >>> quantized = quantize(model, Int8())
    >>> calibrate_ranges(quantized, batches)
    >>> quantized.compile(keras.optimizers.SGD(1e-3), metrics=["accuracy"])
    >>> quantized.fit(batches, epochs=2)
    """
    check_network(model)
    if not isinstance(scheme, Scheme):
        raise TypeError(
            f"`scheme` must be a scheme, such as `Int8()`. Received: scheme={scheme!r}"
        )
    return model.rebuilt(lambda network: _quantize(network, scheme))


def _quantize(model, scheme: Scheme):
    if model.quantization is not None:
        raise ValueError(
            f"{model.name!r} is quantized already, with {model.quantization}."
        )
    scheme.check()
    quantized = type(model).from_config({**model.get_config(), "quantization": scheme})
    state = _quantizer_variables(quantized)
    targets = [v for v in quantized.variables if id(v) not in state]
    for target, source in zip(targets, model.variables, strict=True):
        target.assign(source)
    refit_weights(quantized)
    return quantized


def pack(model: keras.Model) -> keras.Model:
    """Returns the same network with weights stored in as many bits as they need.

    It holds the codes of the weights and the bases of their levels instead of floats.
    Save, load and export the packed network after training. It computes the same
    outputs and cannot be trained.

    Args:
        model: A network quantized with `LearnedQuantization`.

    Raises:
        ValueError: If the network is quantized in another way, or packed already.
    """
    check_network(model)
    return model.rebuilt(_pack)


def _pack(model):
    scheme = model.quantization
    if not isinstance(scheme, LearnedQuantization) or scheme.packed:
        raise ValueError(
            "Only a network quantized with `LearnedQuantization` is packed, "
            f"and only once. Received: {model.name!r} with "
            f"quantization={scheme}"
        )
    packed = _with_packing(model, True)
    for source, target in _layer_pairs(model, packed):
        if getattr(target, "is_packed", False):
            target.weight_quantizer.pack(
                source.output_last(source.kernel), source.weight_quantizer
            )
    return packed


def unpack(model: keras.Model) -> keras.Model:
    """Returns a network that can be trained, with the rounded weights of a packed one.

    Args:
        model: A packed network.

    Raises:
        ValueError: If the network is not packed.
    """
    check_network(model)
    return model.rebuilt(_unpack)


def _unpack(model):
    if not getattr(model.quantization, "packed", False):
        raise ValueError(
            f"{model.name!r} is not packed: quantization={model.quantization}"
        )
    unpacked = _with_packing(model, False)
    for source, target in _layer_pairs(model, unpacked):
        if getattr(source, "is_packed", False):
            target.kernel.assign(source.whole_kernel())
            target.weight_quantizer.basis.assign(source.weight_quantizer.basis)
    return unpacked


def _with_packing(model, packed: bool):
    """Returns a network with packed or unpacked kernels, and copies the rest."""
    scheme = dataclasses.replace(model.quantization, packed=packed)
    copy = type(model).from_config({**model.get_config(), "quantization": scheme})
    for source, target in _layer_pairs(model, copy):
        if isinstance(source, (LearnedWeights, PackedWeights)):
            continue  # with the layer that it belongs to
        kernels = [
            layer.kernel
            for layer in (source, target)
            if getattr(layer, "weight_quantizer", None) is not None
        ]
        for name in ("_trainable_variables", "_non_trainable_variables"):
            values, variables = (
                [
                    variable
                    for variable in getattr(layer, name)
                    if not any(variable is kernel for kernel in kernels)
                ]
                for layer in (source, target)
            )
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
    return copy


def _layer_pairs(model, copy):
    return zip(model._flatten_layers(), copy._flatten_layers(), strict=True)


def refit_weights(model: keras.Model) -> None:
    """Fits the levels of all weights to the current weights.

    Training updates the levels itself. Call this after weights were set by hand.

    Args:
        model: A quantized network.
    """
    for layer in model._flatten_layers():
        if getattr(layer, "weight_quantizer", None) is not None and (
            not layer.is_packed
        ):
            layer.fit_weight_quantizer()


def _quantizer_variables(model) -> set[int]:
    quantizers = (ActivationQuantizer, SlimmableQuantizer, WeightQuantizer)
    return {
        id(variable)
        for layer in model._flatten_layers()
        if isinstance(layer, quantizers)
        for variable in layer.variables
    }
