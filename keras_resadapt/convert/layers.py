"""The names of the arrays of a layer in PyTorch checkpoints."""

from collections.abc import Callable, Sequence

import keras
import numpy as np

from keras_resadapt.layers.conv_block import ConvBlock

# The variables that an array fills, and the function that converts its layout.
Target = tuple[list[keras.Variable], Callable[[np.ndarray], np.ndarray]]

_NORM_NAMES = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def kernel_targets(name: str, layer) -> dict[str, Target]:
    """Returns the targets of a convolution or dense layer."""
    if isinstance(layer, keras.layers.Dense):
        to_keras = np.transpose
    elif isinstance(layer, keras.layers.DepthwiseConv2D):
        # (C, 1, H, W) to (H, W, C, 1)
        def to_keras(w):
            return np.transpose(w, (2, 3, 0, 1))
    else:
        # (O, I, H, W) to (H, W, I, O)
        def to_keras(w):
            return np.transpose(w, (2, 3, 1, 0))

    targets: dict[str, Target] = {f"{name}.weight": ([layer.kernel], to_keras)}
    if layer.use_bias:
        targets[f"{name}.bias"] = ([layer.bias], np.asarray)
    return targets


def norm_targets(name: str, norms: Sequence) -> dict[str, Target]:
    """Returns the targets of a BatchNormalization that fills all of `norms`."""
    return {
        f"{name}.{theirs}": (
            [getattr(norm, ours) for norm in norms],
            np.asarray,
        )
        for ours, theirs in _NORM_NAMES.items()
    }


def conv_block_targets(
    name: str, block: ConvBlock, first: int = 0
) -> dict[str, Target]:
    """Returns the targets of a `ConvBlock`.

    In PyTorch it is an `nn.Sequential`, and the block starts at its entry `first`.
    """
    return {
        **kernel_targets(f"{name}.{first}", block.conv),
        **norm_targets(f"{name}.{first + 1}", [block.bn]),
    }
