"""Losses of Keras that take logits."""

from typing import Any

import keras

# Losses of Keras that exist for logits too
_LOGITS_FORMS = {
    "sparse_categorical_crossentropy": keras.losses.SparseCategoricalCrossentropy,
    "categorical_crossentropy": keras.losses.CategoricalCrossentropy,
    "categorical_focal_crossentropy": keras.losses.CategoricalFocalCrossentropy,
    "binary_crossentropy": keras.losses.BinaryCrossentropy,
    "binary_focal_crossentropy": keras.losses.BinaryFocalCrossentropy,
}


def loss_of_logits(loss: Any) -> keras.losses.Loss:
    """Returns a loss that takes logits.

    Args:
        loss: What `compile` accepts as a loss: the name of one, its function in
            `keras.losses`, or an instance of `keras.losses.Loss`.

    Raises:
        ValueError: A loss that has no form for logits.
    """
    name = loss if isinstance(loss, str) else getattr(loss, "__name__", None)
    if name in _LOGITS_FORMS:
        return _LOGITS_FORMS[name](from_logits=True)
    if isinstance(loss, keras.losses.Loss):
        config = loss.get_config()
        if config.get("from_logits", True) is True:
            return loss
        if type(loss) in _LOGITS_FORMS.values():
            return type(loss).from_config({**config, "from_logits": True})
    raise ValueError(
        "`loss` must be an instance of `keras.losses.Loss` that takes logits, such "
        "as `keras.losses.CategoricalCrossentropy(from_logits=True)`, one of "
        f"{sorted(_LOGITS_FORMS)}, or None for the cross-entropy. "
        f"Received: loss={loss!r}"
    )
