"""Networks of which a point is chosen before the pass: a backbone and a head."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from keras_resadapt.backbones.backbone import Backbone, check_backbone
from keras_resadapt.layers import LayerSet, Preprocessing, resize_bilinear
from keras_resadapt.layers.resize import spatial_size
from keras_resadapt.layers.switchable_batch_normalization import check_resolutions
from keras_resadapt.models.network import Network
from keras_resadapt.points import OperatingPoint
from keras_resadapt.tasks import Classification, Features, Task

# How the authors' codes initialize the classifiers of MobileNets
SMALL_NORMAL = {"class_name": "RandomNormal", "config": {"stddev": 0.01}}


class SwitchableNetwork(Network):
    """A backbone with a head, run at an operating point of several resolutions.

    Args:
        backbone: A backbone. The network is made anew from its architecture.
        task: The task. An integer is short for `tasks.Classification(integer)`.
        resolutions: Resolutions at which the network is trained, in pixels.
        preprocessing: See `layers.Preprocessing`.
        num_classes: The same as an integer `task`.
        frozen_bn: Whether training leaves the scales, biases and statistics of the
            backbone's BatchNormalization unchanged, which suits the fine-tuning of a
            pretrained network with small batches. A MutualNet still normalizes its
            sub-networks by their batches.
        **kwargs: `quantization`, `name` and `dtype`, as for `Network`.

    Raises:
        TypeError, ValueError: An argument that cannot work.
    """

    def __init__(
        self,
        backbone: Backbone,
        task: Task | int | None = None,
        resolutions: Sequence[int] = (224, 192, 160, 128),
        preprocessing: str | None = "imagenet",
        num_classes: int | None = None,
        frozen_bn: bool = False,
        **kwargs,
    ):
        super().__init__(as_task(task, num_classes), **kwargs)
        self.frozen_bn = bool(frozen_bn)
        check_backbone(backbone)
        self.resolutions = self.check_resolutions(resolutions)
        if self.resolutions[-1] < backbone.stride:
            raise ValueError(
                f"`resolutions` must be at least {backbone.stride} pixels, "
                "the stride of the backbone. "
                f"Received: resolutions={self.resolutions}"
            )
        self.preprocessing = Preprocessing(preprocessing, name="preprocessing")

    def check_resolutions(self, resolutions) -> tuple[int, ...]:
        """Returns the resolutions, the largest first, or raises a `ValueError`."""
        return check_resolutions(resolutions)

    def make_layers(self, backbone: Backbone, layers: LayerSet, private) -> None:
        """Makes the backbone and the head of the family's layers.

        Args:
            backbone: The architecture.
            layers: The family's layers in float.
            private: As for `quantization.Scheme.layers`.
        """
        layers = self.layer_set(layers, private)
        self.backbone = backbone.with_layers(layers)
        self.head = self.task.head(layers, self.backbone.level_strides)

    def build_from_point(self, point: OperatingPoint) -> None:
        """Creates all variables by one symbolic pass."""
        super().build_from_point(point)
        if self.frozen_bn:
            for layer in self.backbone._flatten_layers():
                if hasattr(layer, "normalize_by_batch"):
                    layer.trainable = False

    @property
    def classifier(self):
        """The dense layer of the head of a classifier."""
        return self.head.classifier

    # === Forward ===

    def split_targets(self, inputs) -> tuple[Any, Any, tuple | None]:
        """Returns the images that `call` gets, their targets and the targets' size.

        Targets and size are None for images alone.
        """
        if isinstance(inputs, dict):
            targets = inputs["targets"]
            return inputs["images"], targets, self.task.target_size(targets)
        return inputs, None, None

    def outputs_at(
        self, images, point: OperatingPoint, training=None, targets: Any = None
    ) -> Any:
        """Returns the outputs of the task at one point.

        Args:
            images: Images at the resolution of the point.
            point: The operating point.
            training: As for `call`.
            targets: Their targets, for a task that `takes_targets`.
        """
        # JAX calls `call` itself, so that `training` reaches no inner layer unless
        # it is passed on.
        pyramid = self._pyramid(images, point, training)
        further = self.task.head_inputs(
            images, self.backbone.stride, targets, bool(training)
        )
        return self.head(pyramid, point=point, training=training, **further)

    def _pyramid(self, images, point, training):
        x = self.task.pad(self.preprocessing(images), self.backbone.stride)
        return self.backbone.pyramid(x, point, training)

    def features(
        self,
        images,
        point: OperatingPoint | str | None = None,
        training: bool = False,
        pooling: str | None = "avg",
    ):
        """Returns the coarsest features of the backbone.

        Args:
            images: As for `logits`.
            point: The operating point, or its name; by default the headline point
                at the images' own resolution.
            training: As for `logits`.
            pooling: `"avg"` or `"max"` over height and width, or None.

        Returns:
            float32 tensor of shape (batch, channels), or
            (batch, height, width, channels) without pooling.
        """
        point = self.point_at(images) if point is None else self.point_of(point)
        self.check_size(images, point)
        pyramid = self._pyramid(images, point, training)
        head = Features(pooling).head(LayerSet(), self.backbone.level_strides)
        return head(pyramid, point=point)

    def point_at(self, images) -> OperatingPoint:
        """Returns the operating point at the images' own resolution."""
        raise NotImplementedError

    def resolution_of_images(self, images) -> int:
        """Returns the resolution of square images of a known size.

        That of padded images is the largest one.
        """
        if self.task.padded:
            return self.resolutions[0]
        shape = tuple(images.shape)
        if len(shape) != 4 or shape[1] is None or shape[1] != shape[2]:
            raise ValueError(
                "Images must have shape (batch, resolution, resolution, 3) "
                "with a known resolution: resize and batch them first, or "
                "name the operating point: `model.logits(images, point)`. "
                f"Received: shape {shape}"
            )
        return shape[1]

    def check_size(self, images, point: OperatingPoint) -> None:
        """Raises a `ValueError` for images that do not fit a point."""
        super().check_size(images, point)
        size, stride = tuple(images.shape[1:3]), self.backbone.stride
        if not self.task.padded and any(s is not None and s < stride for s in size):
            raise ValueError(
                f"Images must have at least {stride} pixels per side, the stride of "
                f"the backbone. Received: {size[0]} x {size[1]}"
            )

    def scaled_size(self, images, resolution) -> tuple:
        """Returns height and width of images of the largest resolution at another.

        Args:
            images: Images of the largest resolution, of any shape that the task
                permits.
            resolution: The other resolution, an integer or a scalar tensor.
        """
        return tuple(
            size * resolution // self.resolutions[0] for size in spatial_size(images)
        )

    def resized(
        self, images, targets, resolution, resize: Callable = resize_bilinear
    ) -> tuple[Any, Any]:
        """Returns images of the largest resolution, and their targets, at another.

        Args:
            images: Images of the largest resolution.
            targets: Their targets, or None.
            resolution: The other resolution, an integer or a scalar tensor.
            resize: How the family resizes: a function of images and size.
        """
        size, new_size = spatial_size(images), self.scaled_size(images, resolution)
        if targets is not None:
            targets = self.task.scale_targets(targets, size, new_size)
        return self.task.resize(images, new_size, resize), targets

    def view_at(self, images, targets, point: OperatingPoint) -> tuple[Any, Any]:
        """Returns the images of a batch at the resolution of a point.

        Args:
            images: Images of the largest resolution, or a tuple with one tensor per
                resolution of the network.
            targets: Their targets, or None.
            point: The operating point.

        Raises:
            ValueError: A tuple has another number of tensors.
        """
        is_tuple = isinstance(images, (tuple, list))
        if is_tuple and len(images) != len(self.resolutions):
            raise ValueError(
                "A tuple of images must have one tensor per resolution, the "
                f"largest first: {self.resolutions}. Received: {len(images)} tensors"
            )
        resolution, index = point.resolution, 0
        if is_tuple:
            if resolution in self.resolutions:
                index = self.resolutions.index(resolution)
            images = images[index]
            if targets is not None:
                targets = self.task.targets_of_view(targets, index)
        images = ops.cast(images, "float32")
        if resolution == self.resolutions[index]:
            return images, targets
        return self.resized(images, targets, resolution)

    # === Transfer ===

    def with_task(self, task: Task) -> "SwitchableNetwork":
        """Returns the same network with another head, for fine-tuning.

        Weights and statistics of the backbone are copied; the head starts anew.

        Args:
            task: The new task, such as `tasks.Classification(10)`, or
                `tasks.Features("avg")` for a network without a head.
        """
        copy = type(self).from_config({**self.get_config(), "task": task})
        copy.backbone.set_weights(self.backbone.get_weights())
        return copy

    def with_classes(self, num_classes: int) -> "SwitchableNetwork":
        """Returns the same network for other classes; see `with_task`."""
        config = {**self.task.get_config(), "num_classes": num_classes}
        return self.with_task(type(self.task).from_config(config))

    # === Config ===

    def identity(self):
        return {**super().identity(), "resolutions": self.resolutions}

    def get_config(self):
        return {
            **super().get_config(),
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "task": keras.saving.serialize_keras_object(self.task),
            "resolutions": self.resolutions,
            "preprocessing": self.preprocessing.mode,
            "frozen_bn": self.frozen_bn,
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        for name in ("backbone", "task"):
            if isinstance(config[name], dict):
                config[name] = keras.saving.deserialize_keras_object(config[name])
        return cls(**config)


def as_task(task: Task | int | None, num_classes: int | None = None) -> Task:
    """Returns a task, of which `Classification` can be named by an integer."""
    if task is None:
        return Classification() if num_classes is None else Classification(num_classes)
    if num_classes is not None:
        raise ValueError(
            "Pass one of `task` and `num_classes`. "
            f"Received: task={task!r}, num_classes={num_classes!r}"
        )
    if isinstance(task, Task):
        return task
    if hasattr(task, "__index__") or isinstance(task, float):
        return Classification(task)
    raise TypeError(
        "`task` must be a `keras_resadapt.tasks.Task`, such as "
        f"`tasks.Classification(10)`. Received: task={task!r}"
    )


def headless_task(
    num_classes: int, kernel_initializer, include_top: bool, pooling: str | None
) -> Task:
    """Returns the task of a factory's arguments.

    Args:
        num_classes, kernel_initializer: Of the classifier.
        include_top: Whether there is a classifier, as in `keras.applications`.
        pooling: Without one, the global pooling of the features.
    """
    if include_top:
        if pooling is not None:
            raise ValueError(
                "`pooling` is for `include_top=False`. "
                f"Received: pooling={pooling!r} with include_top=True"
            )
        return Classification(num_classes, kernel_initializer)
    return Features(pooling)


def check_width_range(width_range: Sequence[float]) -> tuple[float, float]:
    """Returns the smallest and the largest width, or raises a `ValueError`."""
    try:
        smallest, largest = map(float, width_range)
    except (TypeError, ValueError):
        smallest, largest = 0.0, 0.0
    if not 0 < smallest <= largest < math.inf:
        raise ValueError(
            "`width_range` must be the smallest and the largest width "
            f"multiplier, both positive. Received: width_range={width_range!r}"
        )
    return smallest, largest
