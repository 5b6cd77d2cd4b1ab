"""Training on all devices of a machine with JAX."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras


class DataParallel(keras.distribution.DataParallel):
    """Splits every batch over devices that hold the same weights.

    JAX computes on global tensors. Losses, gradients and BatchNormalization
    statistics are those of the whole batch, as on one device.

    Keras splits a batch when it copies it to the devices, and chooses the layout from
    the first batch. A later batch that the devices do not divide, such as the last
    one of an evaluation, fails there. This class splits batches during the copy only
    if their size is known to be divisible. Otherwise it copies each batch to all
    devices, and splits it in the step. A batch that is not divisible is computed as a
    whole by every device, so that each image counts once.

    Args:
        devices: Names such as `"gpu:0"`; by default all GPUs or TPUs, or all CPUs on
            a machine without them.
    """

    def __init__(self, devices: list[str] | None = None):
        super().__init__(devices=devices or keras.distribution.list_devices())
        self._copies = False

    @contextlib.contextmanager
    def copying(self, data: Any) -> Iterator[None]:
        """Chooses how batches of some data are copied while a block runs.

        Args:
            data: What `fit`, `evaluate` or `predict` takes as `x`.
        """
        before = self._copies
        self._copies = not self._divides_all(data)
        try:
            yield
        finally:
            self._copies = before

    def get_data_layout(self, data_shape) -> keras.distribution.TensorLayout:
        """Returns the layout of a batch that is copied to the devices."""
        if self._copies or not self._divides(data_shape[0]):
            return keras.distribution.TensorLayout(
                [None] * len(data_shape), self.device_mesh
            )
        return super().get_data_layout(data_shape)

    def split(self, tensor: Any) -> Any:
        """Splits a tensor of a step over the devices if they divide its batch."""
        if not self._divides(tensor.shape[0]):
            return tensor
        layout = super().get_data_layout(tensor.shape)
        return keras.distribution.distribute_tensor(tensor, layout)

    def _divides(self, size: int | None) -> bool:
        return size is not None and size % self.num_model_replicas == 0

    def _divides_all(self, data) -> bool:
        # Only a `tf.data.Dataset` states the size of all of its batches.
        spec = keras.tree.flatten(getattr(data, "element_spec", ()))
        return bool(spec) and all(self._divides(tensor.shape[0]) for tensor in spec)


def copying_batches(data: Any) -> contextlib.AbstractContextManager:
    """Returns the context in which a model iterates over data; see `DataParallel`."""
    distribution = keras.distribution.distribution()
    if not isinstance(distribution, DataParallel):
        return contextlib.nullcontext()
    return distribution.copying(data)


def split_over_devices(tensors: Any) -> Any:
    """Returns the tensors of a step, split over the devices of a `DataParallel`.

    Args:
        tensors: A tensor, or a nested structure of tensors, whose first dimension is
            that of the batch.
    """
    distribution = keras.distribution.distribution()
    if not isinstance(distribution, DataParallel):
        return tensors
    return keras.tree.map_structure(distribution.split, tensors)
