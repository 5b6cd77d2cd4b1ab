"""PyTorch checkpoints into Keras models."""

import os
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_resadapt.convert.multi_scale import msdnet_targets, ranet_targets
from keras_resadapt.convert.mutualnet import mutualnet_targets
from keras_resadapt.convert.rsnet import rsnet_targets
from keras_resadapt.models.msdnet import MSDNet
from keras_resadapt.models.mutualnet import MutualNet
from keras_resadapt.models.ranet import RANet
from keras_resadapt.models.rsnet import RSNet
from keras_resadapt.quantization import refit_weights

_CONVERTERS = {
    RSNet: rsnet_targets,
    RANet: ranet_targets,
    MSDNet: msdnet_targets,
    MutualNet: mutualnet_targets,
}


def load_pytorch_state_dict(
    model: keras.Model,
    state_dict_or_path: Mapping[str, Any] | str | os.PathLike,
) -> None:
    """Loads a PyTorch checkpoint into a model.

    An `RSNet` takes the authors' checkpoints, whose private
    BatchNormalization and ensemble scores come along, and torchvision's plain
    ResNet and MobileNetV2 ones, whose BatchNormalization is copied to every
    resolution as a warm start. The `module.` prefix of a parallel training,
    and a dict around it as training scripts save, are seen through.

    The RS-Net authors' networks take pictures scaled to [0, 1]: build the
    model with `preprocessing="unit"`; torchvision's want `"imagenet"`. A
    `RANet`, an `MSDNet` and a `MutualNet` take their authors' checkpoints; the
    last one's statistics are those of the full network alone. The levels of a
    quantized network's weights are fitted to them.

    Args:
        model: The model to fill.
        state_dict_or_path: A mapping from keys to arrays or tensors, or the
            path of a file that `torch.save` wrote (torch must be installed;
            only tensors and plain containers are read from it, never code).

    Raises:
        ValueError: If keys are missing, left over or of another shape; all
            are named, and the model is unchanged. For a packed network.
        TypeError: If no converter knows the model.
    """
    if type(model) not in _CONVERTERS:
        raise TypeError(
            "`model` must be one of "
            f"{', '.join(family.__name__ for family in _CONVERTERS)}. "
            f"Received: model of type {type(model).__name__}"
        )
    if getattr(model.quantization, "packed", False):
        raise ValueError(
            f"{model.name!r} holds packed weights: load the checkpoint into "
            "the network that it was packed from."
        )
    state_dict = _plain(_read(state_dict_or_path))
    targets = _CONVERTERS[type(model)](model, state_dict)
    _check(state_dict, targets)
    for key, (variables, to_keras) in targets.items():
        value = to_keras(state_dict[key])
        for variable in variables:
            variable.assign(value)
    if model.quantization is not None:
        refit_weights(model)


def _read(state_dict_or_path) -> Mapping[str, Any]:
    if isinstance(state_dict_or_path, Mapping):
        return state_dict_or_path
    if not os.path.isfile(state_dict_or_path):
        raise ValueError(
            "`state_dict_or_path` must be a mapping or an existing file. "
            f"Received: {state_dict_or_path!r}"
        )
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            "Reading a PyTorch file needs torch: `pip install torch`. "
            "A mapping from keys to arrays needs no torch."
        ) from error
    return torch.load(state_dict_or_path, map_location="cpu", weights_only=True)


def _plain(state_dict: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays by key, without wrappers, prefixes and step counters."""
    if isinstance(state_dict.get("state_dict"), Mapping):
        state_dict = state_dict["state_dict"]
    return {
        key.removeprefix("module."): np.asarray(value)
        for key, value in state_dict.items()
        if not key.endswith("num_batches_tracked")
    }


def _check(state_dict, targets) -> None:
    missing = sorted(set(targets) - set(state_dict))
    extra = sorted(set(state_dict) - set(targets))
    misshapen = [
        f"{key}: {state_dict[key].shape} gives {shape}, "
        f"the model has {tuple(variables[0].shape)}"
        for key, (variables, to_keras) in targets.items()
        if key in state_dict
        and variables
        and (shape := _converted_shape(to_keras, state_dict[key]))
        != tuple(variables[0].shape)
    ]
    problems = [
        f"{len(keys)} {what}: {', '.join(keys)}"
        for what, keys in (
            ("missing", missing),
            ("not in the model", extra),
            ("of another shape", misshapen),
        )
        if keys
    ]
    if problems:
        raise ValueError(
            "The checkpoint is not of this model, which is unchanged. Keys "
            + "; keys ".join(problems)
        )


def _converted_shape(to_keras, array):
    try:
        return to_keras(array).shape
    except ValueError:  # another rank
        return array.shape
