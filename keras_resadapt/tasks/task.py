"""The base class of tasks: the interface between a task and the families."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keras_resadapt.layers.block import Block, LayerSet


class Task:
    """The head, targets, losses, metrics and responses of a network.

    A family (`RSNet`, `MutualNet`) decides how sub-networks share weights and which
    of them teaches which. The task decides everything that depends on what the
    outputs mean. *Outputs* are what the head returns for a batch: a float32 tensor
    with the batch dimension first.

    A task is defined by the arguments of its constructor, which `get_config`
    returns, and holds no variables: one instance can serve several networks.
    Subclasses are registered with `keras.saving.register_keras_serializable`.

    Attributes:
        num_classes: Number of classes, or None for a task without classes.
        divergences: Names of the divergences with which one sub-network can teach
            another, the default first. An empty tuple means that there is neither
            distillation nor an ensemble.
        any_shape: Whether images that are not square can have any height and width
            of at least the backbone's stride. Square images have the operating
            point's resolution.
        padded: Whether images are padded canvases. An operating point's resolution
            is then the short side of the image on its canvas, and canvases can have
            any height and width.
        takes_targets: Whether the head compares its outputs with the targets in
            training. The outputs then hold what the loss needs.
        compiles: Whether XLA can compile the steps of training and inference.
    """

    num_classes: int | None = None
    divergences: tuple[str, ...] = ()
    any_shape: bool = False
    padded: bool = False
    takes_targets: bool = False
    compiles: bool = True

    def head(self, layers: LayerSet, strides: Mapping[str, int]) -> Block:
        """Returns a new head, named `"head"`.

        Args:
            layers: The constructors of the family's layers.
            strides: Stride of each level of the backbone's pyramid, from fine to
                coarse, such as `{"P2": 4, "P3": 8}`.

        Returns:
            A `Block` that is called as `head(pyramid, point=point, training=...)`
            and calls its layers through the point.
        """
        raise NotImplementedError

    # === Images ===

    def image_size(self, resolution: int) -> tuple[int, int]:
        """Returns height and width in pixels of an image, by which costs are counted.

        Args:
            resolution: That of the operating point.
        """
        return resolution, resolution

    def resize(self, images: Any, size: tuple[Any, Any], resize: Callable) -> Any:
        """Returns the images of a smaller resolution.

        Args:
            images: Images of the largest resolution.
            size: New height and width in pixels, integers or scalar tensors.
            resize: How the family resizes: a function of images and size.
        """
        return resize(images, size)

    def pad(self, images: Any, stride: int) -> Any:
        """Returns preprocessed images, padded to fit the stride of the backbone."""
        return images

    def head_inputs(
        self, images: Any, stride: int, targets: Any = None, training: bool = False
    ) -> dict[str, Any]:
        """Returns further arguments of the head's call.

        Args:
            images: The images before they are padded.
            stride: The stride of the backbone.
            targets: The targets that `call` got; None for images alone.
            training: Whether the pass is for training.
        """
        return {}

    def prepare_images(self, images: Any, resolution: int, sizes: Any = None) -> Any:
        """Returns a batch for images of any sizes; see `Network.detect`.

        Args:
            images: A sequence of images of shape (height, width, 3), or padded
                images of shape (batch, height, width, 3).
            resolution: That of the operating point.
            sizes: Height and width of padded images, of shape (batch, 2).

        Returns:
            The images as one tensor, and their targets, without objects.
        """
        raise ValueError(f"{type(self).__name__} has no detections.")

    # === Targets ===

    def check_targets(self, targets) -> None:
        """Raises an error for targets that cannot be trained on or evaluated."""

    def align(self, outputs: Any, size: tuple[int, int]) -> Any:
        """Returns outputs in a form in which those of different resolutions agree.

        Losses, ensembles, distillation and metrics take aligned outputs.

        Args:
            outputs: Outputs of one operating point.
            size: Height and width in pixels: of the targets in `fit` and `evaluate`,
                if these have a size (`target_size`); else of the largest images of
                the batch. Integers, or scalar tensors.
        """
        return outputs

    def target_size(self, targets) -> tuple[int, int] | None:
        """Returns height and width of the targets; None for targets without pixels."""
        return None

    def scale_targets(self, targets: Any, size: tuple, new_size: tuple) -> Any:
        """Returns the targets of resized images.

        Args:
            targets: The targets of images.
            size, new_size: Height and width of the images before and after. Integers,
                or scalar tensors.
        """
        return targets

    def inference_targets(self, targets: Any) -> Any:
        """Returns the part of the targets that a pass in inference takes."""
        return targets

    def in_own_pixels(self, targets: Any, outputs: Any) -> dict[str, Any]:
        """Returns outputs in pixels of the original images; see `Network.detect`."""
        return outputs

    def targets_of_view(self, targets: Any, index: int) -> Any:
        """Returns the targets of one of several resolutions of the same images.

        Args:
            targets: The targets of a batch for evaluation.
            index: The index of the resolution, the largest first.
        """
        return targets

    def divergence_weights(self, targets, sample_weight=None) -> Any:
        """Returns the sample weights of a divergence, which has no targets.

        Args:
            targets: The targets of the batch.
            sample_weight: Those that the user passed, or None.

        Returns:
            Weights of a form that `divergence` takes, with which outputs without a
            target count for nothing; None for no weights.
        """
        return sample_weight

    def make_loss(self, loss: Any = None) -> Callable | None:
        """Returns the loss of one sub-network.

        Args:
            loss: What the user passed to `compile`; None for the default.

        Returns:
            A function of (targets, aligned outputs, sample weights or None) that
            returns a scalar, such as a `keras.losses.Loss` that takes logits. None
            where there is no default.

        Raises:
            ValueError: A loss that does not fit the task.
        """
        raise NotImplementedError

    def divergence(self, name: str) -> Callable:
        """Returns how one sub-network teaches another.

        Args:
            name: One of `divergences`.

        Returns:
            A function of (teacher's outputs, student's outputs, sample weights or
            None) that returns a scalar and whose gradient does not reach the
            teacher.
        """
        raise NotImplementedError

    def make_metrics(self, metrics: Sequence | None) -> list:
        """Returns the metrics of one operating point.

        Args:
            metrics: What the user passed to `compile`, as a list; None for the
                task's default.
        """
        return list(metrics or ())

    @property
    def metric_shape(self) -> tuple[int, ...] | None:
        """Shape of what the metrics take; None if it is that of the outputs."""
        return None

    def metric_inputs(
        self, targets: Any, outputs: Any, sample_weight: Any = None
    ) -> tuple[Any, Any]:
        """Returns the targets and the outputs that the metrics take.

        Args:
            targets: The targets of the batch.
            outputs: Aligned outputs of one operating point.
            sample_weight: Those that the user passed, or None.
        """
        return targets, outputs

    def make_scorer(self) -> Any:
        """Returns an object that scores whole data sets outside of graphs.

        `Network.evaluate` then returns its scores instead of the loss and the metrics.
        It has the methods

        - `check_targets(targets)`, which raises an error for targets that it cannot
          score;
        - `update_state(targets, outputs)`, which adds a batch;
        - `records()`, a list of what was added for each image, which JSON can
          represent, and `add_records(records)`, which adds the images of another
          worker, each once;
        - `result()`, the scores by name. That of `headline` compares operating points.

        None for a task with metrics in graphs.
        """
        return None

    def make_score(self) -> Any:
        """Returns a metric of one number in [0, 1], higher being better.

        `inference.QueryTable` measures it as the accuracy of an operating point. None
        for the top-1 accuracy of class indices.
        """
        return None

    def response(self, outputs: Any, class_names: Sequence[str] | None = None) -> dict:
        """Returns the outputs of a signature, tensors by name (TensorFlow).

        Args:
            outputs: Outputs of one operating point.
            class_names: A name for each class, or None.
        """
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Task":
        return cls(**config)

    def __eq__(self, other) -> bool:
        return type(self) is type(other) and self.get_config() == other.get_config()

    def __hash__(self) -> int:
        return hash(type(self))

    def __repr__(self) -> str:
        arguments = ", ".join(f"{k}={v!r}" for k, v in self.get_config().items())
        return f"{type(self).__name__}({arguments})"
