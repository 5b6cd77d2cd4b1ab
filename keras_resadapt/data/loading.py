"""One door to all the sets of pictures."""

import os

import numpy as np
import tensorflow as tf

from keras_resadapt.data.demo import demo_source
from keras_resadapt.data.image_folder import image_folder_source
from keras_resadapt.data.source import ImageSource
from keras_resadapt.data.tfds_source import tfds_source


def load_source(
    dataset: str | os.PathLike,
    split: str,
    data_dir: str | os.PathLike | None = None,
    download: bool = False,
    seed: int = 0,
    cache: bool = False,
) -> ImageSource:
    """Opens one split of a set of labelled pictures.

    Args:
        dataset: `"demo"` (made here, see `demo_set`), a folder with `train/CLASS/*.jpg` and `val/CLASS/*.jpg` (jpg,
            jpeg or png), or the name of a TensorFlow Datasets classification set. `"./demo"` is a folder of that name.
        split: `"train"` or `"validation"`; for TensorFlow Datasets also an expression such as `"train[:90%]"`.
        data_dir: where prepared TensorFlow Datasets sets lie; None for their default.
        download: fetch a TensorFlow Datasets set that is not there.
        seed: of the demo set's pictures, and of the order of files of `"train"`.
        cache: read all pictures, still encoded, into memory now. For sets that are small beside the memory.

    Returns:
        The source, for `training_batches`, `evaluation_batches` and `check_pictures`.

    Raises:
        ValueError: unknown set or split, a folder of another shape, or a set that is not for classification.
    """
    if not isinstance(split, str) or not split:
        raise ValueError(
            f"split must be 'train', 'validation' or a TensorFlow Datasets split; got {split!r}."
        )
    path = os.fspath(dataset)
    if path == "demo":
        return demo_source(split, seed=seed)  # is in memory anyway
    if os.path.isdir(path):
        source = image_folder_source(path, split, seed)
    elif path.startswith((".", os.sep, "~")) or not path:
        raise ValueError(
            f"dataset={path!r} is not a folder; expected one with train/CLASS/ and val/CLASS/."
        )
    else:
        source = tfds_source(path, split, data_dir, download, seed)
    return _in_memory(source) if cache else source


def _in_memory(source: ImageSource) -> ImageSource:
    """The same source with its encoded pictures held in one tensor; unreadable files become empty strings."""

    labels, names = (
        np.zeros(source.num_examples, np.int64),
        [b""] * source.num_examples,
    )
    for place, (_, label, name) in (
        source.records.ignore_errors().enumerate().as_numpy_iterator()
    ):
        labels[place], names[place] = label, name
    readable = source.records.enumerate().map(
        lambda place, record: (place, source.read(record[0])),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    pictures = [b""] * source.num_examples
    for place, picture in readable.ignore_errors().as_numpy_iterator():
        pictures[place] = picture
    pictures = tf.constant(pictures)
    return ImageSource(
        name=source.name,
        records=tf.data.Dataset.from_tensor_slices(
            (np.arange(source.num_examples), labels, names)
        ),
        read=lambda place: tf.gather(pictures, place),
        class_names=source.class_names,
        num_examples=source.num_examples,
        image_shape=source.image_shape,
        shuffle_buffer=source.num_examples,
    )
