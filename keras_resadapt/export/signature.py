"""Functions that become signatures of a SavedModel."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Signature:
    """A `tf.function` and its inputs.

    Attributes:
        function: From tensors to a dict of tensors, the outputs.
        specs: The name, shape and dtype of each input.
    """

    function: Any
    specs: tuple[tf.TensorSpec, ...]


def signature_of(function: Callable, specs: Sequence[tf.TensorSpec]) -> Signature:
    """Returns the signature of a function of tensors, to be traced once."""
    specs = tuple(specs)
    function = tf.function(function, input_signature=specs, autograph=False)
    return Signature(function, specs)


def images_spec(size: int) -> tf.TensorSpec:
    """Returns the input `images` of float32 pixels, `size` pixels per side."""
    return tf.TensorSpec((None, size, size, 3), tf.float32, name="images")


def write_signatures(signatures: Mapping[str, Signature], folder: str) -> None:
    """Writes a SavedModel with signatures, by name, that share variables."""
    archive = keras.export.ExportArchive()
    for name, signature in signatures.items():
        # With its own `input_signature`, the endpoint calls the function. A
        # function that were itself the endpoint of two names, or were traced
        # before, would be stored twice.
        archive.add_endpoint(name, signature.function, input_signature=signature.specs)
    # Without `archive.track(model)`, which would store the variables twice.
    archive.write_out(folder, verbose=False)
