"""Loading of PyTorch checkpoints into Keras models."""

import os
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_resadapt.convert.epsilon import with_epsilon_of
from keras_resadapt.convert.mask_rcnn import is_mask_rcnn, mask_rcnn_targets
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
    bn_epsilon: float | None = None,
) -> None:
    """Loads a PyTorch checkpoint into a model.

    An `RSNet` takes the checkpoints of its authors, with private
    BatchNormalization and ensemble scores, and the plain ResNet and MobileNetV2
    checkpoints of torchvision, whose BatchNormalization is copied to every
    resolution as a warm start. A `RANet`, an `MSDNet` and a `MutualNet` take the
    checkpoints of their authors. The running statistics of a `MutualNet` are
    those of the full network alone. A network of `tasks.Segmentation` on a ResNet
    takes DrSleep's checkpoints of RefineNet and Light-Weight RefineNet, or, as a
    warm start of its backbone, a checkpoint of a classifier. A network of
    `tasks.InstanceSegmentation` on a ResNet takes torchvision's Faster and Mask
    R-CNN. In a quantized network, the levels of the weights are fitted to the
    checkpoint.

    The `module.` prefix of a parallel training is removed, and a checkpoint in a
    dict under `"state_dict"`, as training scripts save it, is found.

    The networks of the RS-Net authors take images scaled to [0, 1]: build the
    model with `preprocessing="unit"`. Those of torchvision need `"imagenet"`.

    Args:
        model: The model to fill.
        state_dict_or_path: A mapping from keys to arrays or tensors, or the path
            of a file written by `torch.save`. A file needs torch, and only
            tensors and plain containers are read from it, never code.
        bn_epsilon: The epsilon of the checkpoint's BatchNormalization; None for the
            model's, 1e-5. It is 0 for torchvision's detectors with the weights
            `COCO_V1`. The scales of the checkpoint are changed accordingly.

    Raises:
        ValueError: If the file is not a checkpoint of tensors, if a value is not
            a numeric array, or if keys are missing, left over or of another
            shape. The message has all these keys, and the model is unchanged.
            Also for a packed network or a negative `bn_epsilon`.
        TypeError: If the type of the model is not supported, or the checkpoint is
            not a mapping.
        ImportError: If a file is given and torch is not installed.
    """
    if type(model) not in _CONVERTERS:
        raise TypeError(
            "`model` must be one of "
            f"{', '.join(family.__name__ for family in _CONVERTERS)}. "
            f"Received: model of type {type(model).__name__}"
        )
    if getattr(model.quantization, "packed", False):
        raise ValueError(
            "`model` must not have packed weights. Load the checkpoint into the "
            f"network that was packed. Received: {model.name!r}"
        )
    state_dict = _plain(_read(state_dict_or_path))
    if bn_epsilon is not None:
        state_dict = with_epsilon_of(model, state_dict, bn_epsilon)
    convert = _CONVERTERS[type(model)]
    if is_mask_rcnn(state_dict):
        convert = mask_rcnn_targets
    targets = convert(model, state_dict)
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
    if not isinstance(state_dict_or_path, str | os.PathLike):
        raise TypeError(
            "`state_dict_or_path` must be a mapping or the path of a file. "
            f"Received: a {type(state_dict_or_path).__name__}"
        )
    path = os.fspath(state_dict_or_path)
    if not os.path.isfile(path):
        raise ValueError(
            "`state_dict_or_path` must be a mapping or an existing file. "
            f"Received: {path!r}"
        )
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            "Reading a PyTorch file needs torch: `pip install torch`. "
            "A mapping from keys to arrays needs no torch."
        ) from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of many types, for example for a text file
        raise ValueError(
            "`state_dict_or_path` must be a file that `torch.save` wrote and that "
            "holds tensors and plain containers only. "
            f"Received: {path!r}, which raises {type(error).__name__}"
        ) from error
    if not isinstance(content, Mapping):
        raise TypeError(
            "`state_dict_or_path` must be a file that holds a mapping from keys to "
            f"tensors. Received: {path!r}, which holds a {type(content).__name__}"
        )
    return content


def _plain(state_dict: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns arrays by key, without wrappers, prefixes and step counters."""
    if isinstance(state_dict.get("state_dict"), Mapping):
        state_dict = state_dict["state_dict"]
    arrays, invalid = {}, []
    for key, value in state_dict.items():
        if not isinstance(key, str):
            invalid.append(f"{key!r}: a key that is not a string")
            continue
        if key.endswith("num_batches_tracked"):
            continue
        name, array = key.removeprefix("module."), _to_array(value)
        if array is None:
            invalid.append(f"{key}: a {type(value).__name__}")
        elif name in arrays:
            invalid.append(f"{key}: twice, with and without the prefix")
        else:
            arrays[name] = array
    if invalid:
        more = f" and {len(invalid) - 10} more" if len(invalid) > 10 else ""
        raise ValueError(
            "A checkpoint must map strings to numeric arrays or tensors. Received: "
            f"{'; '.join(invalid[:10])}{more}"
        )
    return arrays


def _to_array(value: Any) -> np.ndarray | None:
    """Returns a tensor or array as a real NumPy array, or None for anything else."""
    try:
        if hasattr(value, "detach"):  # a torch tensor
            value = value.detach().cpu()
            if value.is_floating_point():
                value = value.float()  # NumPy has no bfloat16
            value = value.numpy()
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):
        return None  # ragged lists, sparse and quantized tensors
    return array if array.dtype.kind in "fiu" else None


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
            "The checkpoint does not fit the model, which is unchanged. Keys "
            + "; keys ".join(problems)
        )


def _converted_shape(to_keras, array):
    try:
        return to_keras(array).shape
    except ValueError:  # another rank
        return array.shape
