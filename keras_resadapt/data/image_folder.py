"""Pictures in folders named after their classes."""

import os
import pathlib

import numpy as np
import tensorflow as tf

from keras_resadapt.data.source import ImageSource

SUFFIXES = (".jpg", ".jpeg", ".png")
FOLDERS = {"train": "train", "validation": "val"}


def image_folder_source(
    folder: str | os.PathLike, split: str, seed: int = 0
) -> ImageSource:
    """The pictures `FOLDER/train/CLASS/*` or `FOLDER/val/CLASS/*` (jpg, jpeg, png), labelled by class folder.

    Labels follow the sorted class names of `train`. Hidden files and files of other kinds are ignored.

    Args:
        folder: the folder that holds `train` and `val`.
        split: `"train"` (in an order shuffled by `seed`) or `"validation"` (sorted).
        seed: of the file order of `"train"`.

    Raises:
        ValueError: another split, a missing folder, a class without pictures, or a class of `val` that `train`
            does not have.
    """
    if split not in FOLDERS:
        raise ValueError(
            f"split of an image folder must be one of {tuple(FOLDERS)}; got {split!r}."
        )
    root = pathlib.Path(folder)
    class_names = _class_folders(root / "train", root)
    split_folder = root / FOLDERS[split]
    split_classes = (
        class_names if split == "train" else _class_folders(split_folder, root)
    )
    unknown = [name for name in split_classes if name not in set(class_names)]
    if unknown:
        raise ValueError(
            f"dataset={str(root)!r}: val has classes that train does not have: {', '.join(unknown[:10])}."
        )

    paths, labels, empty = [], [], []
    label_of = {name: label for label, name in enumerate(class_names)}
    for name in split_classes:
        found = sorted(
            entry.path
            for entry in os.scandir(split_folder / name)
            if entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(".")
        )
        if not found:
            empty.append(name)
        paths += found
        labels += [label_of[name]] * len(found)
    if empty:
        raise ValueError(
            f"dataset={str(root)!r}: no {', '.join(SUFFIXES)} pictures in the classes "
            f"{', '.join(empty[:10])} of {FOLDERS[split]}."
        )

    order = (
        np.random.default_rng(seed).permutation(len(paths))
        if split == "train"
        else np.arange(len(paths))
    )
    paths, labels = (
        np.array(paths, dtype=object)[order],
        np.array(labels, np.int64)[order],
    )
    names = np.array([os.path.relpath(path, root) for path in paths], dtype=object)
    return ImageSource(
        name=f"{root.name}/{split}",
        records=tf.data.Dataset.from_tensor_slices((paths, labels, names)),
        read=tf.io.read_file,
        class_names=class_names,
        num_examples=len(paths),
        shuffle_buffer=len(paths),  # only paths
    )


def _class_folders(folder: pathlib.Path, root: pathlib.Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise ValueError(
            f"dataset={str(root)!r} has no folder {folder.name}/: an image folder has train/CLASS/ and val/CLASS/."
        )
    names = tuple(
        sorted(
            entry.name
            for entry in os.scandir(folder)
            if entry.is_dir() and entry.name[0] != "."
        )
    )
    if not names:
        raise ValueError(
            f"dataset={str(root)!r}: {folder.name}/ has no class folders; expected train/CLASS/*.jpg."
        )
    return names
