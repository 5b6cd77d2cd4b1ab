"""Classification sets of TensorFlow Datasets, read without decoding."""

import difflib
import os

import tensorflow as tf

from keras_resadapt.data.source import ImageSource

# A shuffle buffer of encoded images takes at most about this much memory.
SHUFFLE_BYTES = 2**30


def tfds_source(
    dataset: str,
    split: str,
    data_dir: str | os.PathLike | None = None,
    download: bool = False,
    seed: int = 0,
) -> ImageSource:
    """Returns one split of a TFDS set that has one image and one class label.

    Args:
        dataset: Name of the set, optionally with configuration and version
            (`"name/config:1.0.0"`).
        split: `"train"`, `"validation"`, or a split expression of TFDS such as
            `"train[:90%]"`. `"validation"` is the `"test"` split of a set without a
            validation split.
        data_dir: Folder of the prepared sets. None for the default of TFDS.
        download: Whether to download and prepare a set that is missing.
        seed: Seed of the order in which the files of `"train"` are read.

    Raises:
        ValueError: For an unknown set, a set that is not prepared while `download` is
            False, a split that the set does not have, or a set that is not for image
            classification.
        ImportError: If tensorflow_datasets is not installed.
    """
    builder = open_builder(dataset, data_dir, download)
    image_key, label_key = _classification_keys(dataset, builder.info)
    tfds_split, split_info = find_split(builder, dataset, split)
    records = read_records(builder, tfds_split, (image_key,), split == "train", seed)
    return ImageSource(
        name=f"{dataset}/{split}",
        records=records.map(
            lambda example: (
                example[image_key],
                example[label_key],
                example["tfds_id"],
            ),
            num_parallel_calls=tf.data.AUTOTUNE,
        ),
        read=tf.identity,
        class_names=tuple(builder.info.features[label_key].names),
        num_examples=split_info.num_examples,
        image_shape=fixed_shape(builder.info.features[image_key]),
        shuffle_buffer=shuffle_buffer(split_info),
    )


def open_builder(dataset: str, data_dir: str | os.PathLike | None, download: bool):
    """Returns the TFDS builder of a prepared set.

    Args:
        dataset, data_dir, download: As for `tfds_source`.

    Raises:
        ValueError: If the set is unknown, or not prepared while `download` is False.
        ImportError: If tensorflow_datasets is not installed.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            f"dataset={dataset!r} is read with TensorFlow Datasets: "
            "`pip install tensorflow-datasets`."
        ) from error

    data_dir = None if data_dir is None else os.fspath(data_dir)
    where = "the default data_dir" if data_dir is None else f"data_dir={data_dir!r}"
    try:
        builder = tfds.builder(dataset, data_dir=data_dir)
    except (
        tfds.core.registered.DatasetNotFoundError,
        ValueError,
        RuntimeError,
    ):
        # Without the cause: the message of TFDS lists all of its hundreds of sets.
        raise ValueError(
            "`dataset` must be 'demo', an existing folder with train/CLASS/ and "
            f"val/CLASS/, or a set in {where} or of TensorFlow Datasets. "
            f"Received: dataset={dataset!r}{_close_matches(dataset, data_dir)}"
        ) from None
    if not builder.is_prepared():
        if not download:
            raise ValueError(
                f"`dataset` must be prepared in {where} unless download=True. "
                f"Received: dataset={dataset!r}"
            )
        builder.download_and_prepare()
    return builder


def find_split(builder, dataset: str, split: str):
    """Returns the TFDS name and the `SplitInfo` of a split.

    Raises:
        ValueError: If the set does not have the split, or the split is empty.
    """
    available = tuple(builder.info.splits)
    if split == "validation" and "validation" not in available:
        tfds_split = "test"
    else:
        tfds_split = split
    try:
        split_info = builder.info.splits[tfds_split]
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"`split` must be one of {', '.join(available)} for dataset={dataset!r}, "
            f"or a slice such as '{available[0] if available else 'train'}[:90%]'. "
            f"Received: split={split!r}"
        ) from error
    if not split_info.num_examples:
        raise ValueError(
            f"`split` must have images. Received: split={split!r}, which is empty in "
            f"dataset={dataset!r}"
        )
    return tfds_split, split_info


def read_records(
    builder, split: str, encoded: tuple[str, ...], shuffle_files: bool, seed: int
) -> tf.data.Dataset:
    """Returns the examples of a split in an order that can be repeated.

    Args:
        builder: The TFDS builder.
        split: The TFDS name of the split.
        encoded: Keys of the image features that are not decoded.
        shuffle_files: Whether to read the files in an order shuffled by `seed`.
        seed: Seed of the order.

    Returns:
        `tf.data.Dataset` of dicts, with the key `"tfds_id"` for the name.
    """
    import tensorflow_datasets as tfds

    options = tf.data.Options()
    options.deterministic = True  # repeatable epochs need records in one order
    read_config = tfds.ReadConfig(
        options=options,
        shuffle_seed=seed,
        shuffle_reshuffle_each_iteration=False,
        add_tfds_id=True,
    )
    return builder.as_dataset(
        split=split,
        shuffle_files=shuffle_files,
        decoders={key: tfds.decode.SkipDecoding() for key in encoded},
        read_config=read_config,
    )


def fixed_shape(feature) -> tuple[int, int] | None:
    """Returns the (height, width) of an image feature, or None if they vary."""
    height, width = feature.shape[:2]
    return None if None in (height, width) else (height, width)


def shuffle_buffer(split_info) -> int:
    """Returns the number of records that fit into `SHUFFLE_BYTES`."""
    bytes_each = max(1, split_info.num_bytes // max(1, split_info.num_examples))
    return max(1024, SHUFFLE_BYTES // bytes_each)


def describe_features(features: dict) -> str:
    """Returns the keys and types of features, for messages."""
    parts = (f"{key}: {type(feature).__name__}" for key, feature in features.items())
    return ", ".join(parts) or "no features by name"


def named_features(info) -> dict:
    """Returns the features of a set by name, empty if they have no names."""
    import tensorflow_datasets as tfds

    is_dict = isinstance(info.features, tfds.features.FeaturesDict)
    return dict(info.features) if is_dict else {}


def _close_matches(dataset: str, data_dir: str | None) -> str:
    """Returns a hint with similar names of sets, empty if there are none."""
    import tensorflow_datasets as tfds

    known = set(tfds.list_builders(with_community_datasets=False))
    if data_dir is not None and os.path.isdir(data_dir):
        known |= {entry.name for entry in os.scandir(data_dir) if entry.is_dir()}
    matches = difflib.get_close_matches(dataset.split("/")[0].split(":")[0], known)
    return f". Similar names: {', '.join(matches)}" if matches else ""


def is_classification(info) -> bool:
    """Returns whether a TFDS set has one image and one class label."""
    try:
        _classification_keys("", info)
    except ValueError:
        return False
    return True


def _classification_keys(dataset: str, info) -> tuple[str, str]:
    """Returns the keys of the image and of the label."""
    import tensorflow_datasets as tfds

    image_type, label_type = tfds.features.Image, tfds.features.ClassLabel
    features = named_features(info)
    keys = info.supervised_keys or ()
    if not (
        len(keys) == 2 and all(isinstance(key, str) and key in features for key in keys)
    ):
        images, labels = (
            [key for key, feature in features.items() if type(feature) is wanted]
            for wanted in (image_type, label_type)
        )
        keys = (images[0], labels[0]) if len(images) == len(labels) == 1 else ()
    if (
        not keys
        or type(features[keys[0]]) is not image_type
        or type(features[keys[1]]) is not label_type
        or features[keys[0]].dtype not in ("uint8", "uint16")
    ):
        raise ValueError(
            "`dataset` must have one Image and one ClassLabel. "
            f"Received: dataset={dataset!r} with {describe_features(features)}"
        )
    return keys[0], keys[1]
