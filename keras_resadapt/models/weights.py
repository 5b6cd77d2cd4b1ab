"""The argument `weights` of the factories."""

import keras


def load_weights_file(model: keras.Model, weights: str | None) -> keras.Model:
    """Loads a `.weights.h5` file, unless `weights` is None."""
    if weights is not None:
        if not str(weights).endswith(".weights.h5"):
            raise ValueError(
                "`weights` must be None or the path of a `.weights.h5` file. "
                "For a PyTorch checkpoint, build the model without it and call "
                "`keras_resadapt.convert.load_pytorch_state_dict`. "
                f"Received: weights={weights!r}"
            )
        model.load_weights(weights)
    return model
