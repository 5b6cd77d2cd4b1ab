"""One function that opens all sets of images."""

import dataclasses
import os
import warnings

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
    """Opens one split of a set of labeled images.

    Args:
        dataset: `"demo"` (drawn in memory, see `demo_set`), a folder with
            `train/CLASS/*.jpg` and `val/CLASS/*.jpg` (jpg, jpeg or png), or the name of
            a TensorFlow Datasets classification set. `"./demo"` is a folder of that
            name.
        split: `"train"` or `"validation"`, for TensorFlow Datasets also an expression
            such as `"train[:90%]"`.
        data_dir: Folder of the prepared TensorFlow Datasets sets. None for their
            default.
        download: Whether to download and prepare a TensorFlow Datasets set that is
            missing.
        seed: Seed of the images of the demo set, and of the order of the files of
            `"train"`.
        cache: Whether to read all encoded images into memory now. Only for sets that
            are small compared with the memory.

    Returns:
        The source, for `training_batches`, `evaluation_batches` and `check_pictures`.
        A set with a single class gives a warning.

    Raises:
        ValueError: For an unknown set or split, a folder of another structure, or a
            set that is not for classification.
        ImportError: If tensorflow_datasets is needed and not installed.
    """
    if not isinstance(split, str) or not split:
        raise ValueError(
            "`split` must be 'train', 'validation' or a TensorFlow Datasets split. "
            f"Received: split={split!r}"
        )
    path = os.fspath(dataset)
    if path == "demo":
        return demo_source(split, seed=seed)  # is in memory already
    if os.path.isdir(path):
        source = image_folder_source(path, split, seed)
    elif path.startswith((".", os.sep, "~")) or not path:
        raise ValueError(
            "`dataset` must be 'demo', a folder with train/CLASS/ and val/CLASS/, or a "
            f"TensorFlow Datasets name. Received: dataset={path!r}, which is not a "
            "folder"
        )
    else:
        source = tfds_source(path, split, data_dir, download, seed)
    if source.num_classes == 1:
        warnings.warn(
            f"{source.name} has a single class, {source.class_names[0]!r}. Every "
            "network has an accuracy of 1 on it.",
            stacklevel=2,
        )
    return _in_memory(source) if cache else source


def _in_memory(source: ImageSource) -> ImageSource:
    """Returns the same source with its encoded images in one tensor.

    Unreadable files become empty strings.
    """
    count = source.num_examples
    labels, names, images = np.zeros(count, np.int64), [b""] * count, [b""] * count
    records = source.records.ignore_errors().enumerate()
    for place, (_, label, name) in records.as_numpy_iterator():
        labels[place], names[place] = label, name
    readable = source.records.enumerate().map(
        lambda place, record: (place, source.read(record[0])),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    for place, image in readable.ignore_errors().as_numpy_iterator():
        images[place] = image
    images = tf.constant(images)
    return dataclasses.replace(
        source,
        records=tf.data.Dataset.from_tensor_slices((np.arange(count), labels, names)),
        read=lambda place: tf.gather(images, place),
        shuffle_buffer=count,
    )
