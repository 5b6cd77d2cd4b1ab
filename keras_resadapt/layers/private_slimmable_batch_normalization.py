"""Slimmable BatchNormalization with private parameters for each resolution."""

from collections.abc import Sequence

import keras
from keras import ops

from keras_resadapt.layers.slimmable_batch_normalization import (
    SlimmableBatchNormalization,
)
from keras_resadapt.layers.switchable_batch_normalization import (
    check_resolutions,
    trained_index,
)
from keras_resadapt.points.operating_point import DrawnResolution


@keras.saving.register_keras_serializable("keras_resadapt")
class PrivateSlimmableBatchNormalization(SlimmableBatchNormalization):
    """Private scale and bias for each resolution, of which a width uses the first.

    The combination of RS-Net's private BatchNormalization (section 3.1) with
    slimmable widths, which that paper leaves as future work. Statistics belong to
    single operating points, as in `SlimmableBatchNormalization`.

    Args:
        resolutions: The resolutions of the network's input, in pixels.
        full_width: Width multiplier of the full network, the largest one.
        **kwargs: As for `BatchNormalization`.

    Call arguments:
        inputs: Tensor of shape (batch, height, width, channels).
        resolution, width: Axes of the operating point.
        training: As for `SlimmableBatchNormalization`.
    """

    def __init__(self, resolutions: Sequence[int], full_width: float, **kwargs):
        self_resolutions = check_resolutions(resolutions)
        super().__init__(self_resolutions[0], full_width, **kwargs)
        self.resolutions = self_resolutions

    def affine_shape(self, channels: int) -> tuple[int, ...]:
        return (len(self.resolutions), channels)

    def affine_vectors(self, resolution):
        if not isinstance(resolution, DrawnResolution):
            index = trained_index(self.resolutions, resolution)
            return self.gamma[index], self.beta[index]
        # A sum, because the gradient of a gather is sparse.
        is_drawn = ops.equal(ops.array(self.resolutions, "int32"), resolution.value)
        share = ops.cast(is_drawn, self.gamma.dtype)[:, None]
        return ops.sum(self.gamma * share, axis=0), ops.sum(self.beta * share, axis=0)

    def get_config(self):
        config = super().get_config()
        del config["full_resolution"]
        return {**config, "resolutions": self.resolutions}
