"""Flags that several scripts share, and what they describe.

Scripts that read images have `--dataset`, `--data_dir` and `--crop_fraction`.
"""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf
from absl import app, flags

from keras_resadapt import data

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "dataset",
    "demo",
    "'demo', a folder with train/CLASS/*.jpg and val/CLASS/*.jpg, or the name of "
    "a TFDS data set.",
)
flags.DEFINE_string("data_dir", None, "Folder of the prepared TFDS data sets.")
flags.DEFINE_float(
    "crop_fraction",
    0.875,
    "In evaluation: the resolution divided by the short side of the resized "
    "image, of which the centre is cropped.",
    lower_bound=0.01,
    upper_bound=1.0,
)
# The flags that `define_integers` defines belong to the scripts that call it.
flags.disclaim_key_flags()


class _IntegersParser(flags.ListParser):
    """Parses integers separated by commas."""

    def __init__(self, minimum: int):
        super().__init__()
        self.minimum = minimum

    def parse(self, argument):
        try:
            values = [int(value) for value in super().parse(argument)]
        except ValueError:
            values = []
        if not values or min(values) < self.minimum:
            raise ValueError(
                f"must be integers of at least {self.minimum}, separated by commas"
            )
        return values


def define_integers(
    name: str, default: Sequence[int] | None, description: str, minimum: int = 1
) -> None:
    """Defines a flag of several integers, such as `--resolutions=48,32,16`."""
    flags.DEFINE(
        _IntegersParser(minimum),
        name,
        default and list(default),
        description,
        serializer=flags.CsvListSerializer(","),
    )


def define_architecture() -> None:
    """Defines the flags that change a backbone's architecture."""
    flags.DEFINE_enum(
        "stem",
        None,
        ["small", "imagenet"],
        "The first layers, for small images or for ImageNet; the model's by default.",
    )
    define_integers("depths", None, "Blocks per stage; the model's by default.")
    define_integers("filters", None, "Channels per stage; the model's by default.")


def given(*names: str) -> dict[str, object]:
    """Returns the values of the flags that were given, by name."""
    return {name: getattr(FLAGS, name) for name in names if FLAGS[name].present}


def build(models: dict[str, Callable], *args, **options) -> keras.Model:
    """Builds the network that `--model` names.

    Args:
        models: Functions that build networks, by the values of `--model`.
        *args: Arguments of the function.
        **options: Further arguments, which are flags of the same names.

    Raises:
        app.UsageError: If the function has no such argument.
    """
    try:
        return models[FLAGS.model](*args, **options)
    except (TypeError, ValueError) as error:
        for name in options:
            if "keyword argument" in str(error) and f"'{name}'" in str(error):
                raise app.UsageError(
                    f"--{name} does not apply to --model={FLAGS.model}."
                ) from error
        raise


def load_source(split: str, **kwargs) -> data.ImageSource:
    """Opens a split of the data set that the flags name.

    Args:
        split: `"train"` or `"validation"`.
        **kwargs: Further arguments of `data.load_source`.
    """
    return data.load_source(FLAGS.dataset, split, FLAGS.data_dir, **kwargs)


def evaluation_batches(
    source: data.ImageSource,
    batch_size: int,
    resolutions: int | Sequence[int],
    **kwargs,
) -> tf.data.Dataset:
    """Returns the images of a source, preprocessed as in the papers' evaluation.

    Args:
        source, batch_size, resolutions: As for `data.evaluation_batches`.
        **kwargs: Further arguments of `data.evaluation_batches`.
    """
    return data.evaluation_batches(
        source, batch_size, resolutions, crop_fraction=FLAGS.crop_fraction, **kwargs
    )


def resolutions_of(model: keras.Model) -> int | tuple[int, ...]:
    """Returns the resolutions of the images on which a network is evaluated.

    This is one resolution for a cascade, and all resolutions for an `RSNet` or
    a `MutualNet`, in pixels.
    """
    if hasattr(model, "resolution"):  # a cascade
        return model.resolution
    return model.resolutions
