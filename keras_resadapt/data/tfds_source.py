"""Classification sets of TensorFlow Datasets, read without decoding."""

import os

import tensorflow as tf

from keras_resadapt.data.source import ImageSource

# A shuffle buffer of encoded pictures takes at most about this much memory.
SHUFFLE_BYTES = 2**30


def tfds_source(
    dataset: str,
    split: str,
    data_dir: str | os.PathLike | None = None,
    download: bool = False,
    seed: int = 0,
) -> ImageSource:
    """One split of a TFDS set that has one image and one class label.

    Args:
        dataset: name of the set, with configuration and version if wanted (`"name/config:1.0.0"`).
        split: `"train"`; `"validation"`, which is the set's `"test"` if it has no validation split; or any split
            expression of TFDS such as `"train[:90%]"`.
        data_dir: where prepared sets lie; None for TFDS's own default.
        download: download and prepare the set if it is not there.
        seed: of the order in which the files of a set of several files are read.

    Raises:
        ValueError: unknown set, one that is not prepared while `download` is False, a split that it does not have, or
            one that is not for image classification.
        ImportError: tensorflow_datasets is not installed.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            f"dataset={dataset!r} is read with TensorFlow Datasets: pip install tensorflow-datasets."
        ) from error

    where = (
        f"data_dir={str(data_dir)!r}"
        if data_dir is not None
        else "the default data_dir"
    )
    try:
        builder = tfds.builder(
            dataset, data_dir=None if data_dir is None else os.fspath(data_dir)
        )
    except (
        tfds.core.registered.DatasetNotFoundError,
        ValueError,
        RuntimeError,
    ) as error:
        # TFDS's own message lists all of its hundreds of sets.
        raise ValueError(
            f"dataset={dataset!r} is unknown: it must be 'demo', an existing folder with train/CLASS/ and val/CLASS/, "
            f"or a set that is in {where} or known to TensorFlow Datasets."
        ) from error
    if not builder.is_prepared():
        if not download:
            raise ValueError(
                f"dataset={dataset!r} is not in {where}; pass download=True to fetch and prepare it."
            )
        builder.download_and_prepare()

    image_key, label_key = _classification_keys(dataset, builder.info, tfds)
    available = tuple(builder.info.splits)
    tfds_split = (
        "test" if split == "validation" and "validation" not in available else split
    )
    try:
        split_info = builder.info.splits[tfds_split]
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"split={split!r} is not in dataset={dataset!r}, which has {', '.join(available)} (and slices such as "
            f"'{available[0] if available else 'train'}[:90%]')."
        ) from error
    if not split_info.num_examples:
        raise ValueError(
            f"split={split!r} of dataset={dataset!r} is empty; choose one with pictures."
        )

    options = tf.data.Options()
    options.deterministic = (
        True  # epochs that can be repeated need records in one order
    )
    read_config = tfds.ReadConfig(
        options=options,
        shuffle_seed=seed,
        shuffle_reshuffle_each_iteration=False,
        add_tfds_id=True,
    )
    records = builder.as_dataset(
        split=tfds_split,
        shuffle_files=split == "train",
        decoders={image_key: tfds.decode.SkipDecoding()},
        read_config=read_config,
    )
    shape = builder.info.features[image_key].shape
    bytes_each = max(1, split_info.num_bytes // max(1, split_info.num_examples))
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
        image_shape=None if None in shape[:2] else tuple(shape[:2]),
        shuffle_buffer=max(1024, SHUFFLE_BYTES // bytes_each),
    )


def _classification_keys(dataset, info, tfds) -> tuple[str, str]:
    """The keys of the image and of the label."""
    features = (
        dict(info.features)
        if isinstance(info.features, tfds.features.FeaturesDict)
        else {}
    )
    keys = info.supervised_keys or ()
    if not (
        len(keys) == 2 and all(isinstance(key, str) and key in features for key in keys)
    ):
        images = [
            key
            for key, feature in features.items()
            if type(feature) is tfds.features.Image
        ]
        labels = [
            key
            for key, feature in features.items()
            if type(feature) is tfds.features.ClassLabel
        ]
        keys = (images[0], labels[0]) if len(images) == len(labels) == 1 else ()
    if (
        not keys
        or type(features[keys[0]]) is not tfds.features.Image
        or type(features[keys[1]]) is not tfds.features.ClassLabel
        or features[keys[0]].dtype not in ("uint8", "uint16")
    ):
        raise ValueError(
            f"dataset={dataset!r} is not an image classification set: it must have one Image and one ClassLabel; it "
            f"has {', '.join(f'{key}: {type(feature).__name__}' for key, feature in features.items()) or 'neither'}."
        )
    return keys[0], keys[1]
