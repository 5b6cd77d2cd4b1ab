"""Images in folders named after their classes."""

import os
import pathlib
import warnings

import numpy as np
import tensorflow as tf

from keras_resadapt.data.source import ImageSource

SUFFIXES = (".jpg", ".jpeg", ".png")
FOLDERS = {"train": "train", "validation": "val"}


def image_folder_source(
    folder: str | os.PathLike, split: str, seed: int = 0
) -> ImageSource:
    """Returns the images of a folder, labeled by their class folders.

    The images are `FOLDER/train/CLASS/*` or `FOLDER/val/CLASS/*` (jpg, jpeg, png).
    Labels follow the sorted class names of `train`. Hidden files and files of other
    types are ignored. Entries that are not regular files, such as pipes, sockets,
    devices and links to them, are skipped with a warning.

    Args:
        folder: The folder that holds `train` and `val`.
        split: `"train"` (in an order shuffled by `seed`) or `"validation"` (sorted).
        seed: Seed of the file order of `"train"`.

    Raises:
        ValueError: For another split, a missing folder, a class folder whose name is
            not UTF-8, a class without images, or a class of `val` that `train` does
            not have.
    """
    check_split(split)
    root = pathlib.Path(folder)
    class_names = _class_folders(root / "train", root)
    split_folder = root / FOLDERS[split]
    if split == "train":
        split_classes = class_names
    else:
        split_classes = _class_folders(split_folder, root)
        unknown = [name for name in split_classes if name not in set(class_names)]
        if unknown:
            raise ValueError(
                "`dataset` must have all classes of val/ in train/. Received: "
                f"dataset={str(root)!r}, where train/ does not have the classes "
                f"{', '.join(unknown[:10])}"
            )

    paths, labels, empty = [], [], []
    label_of = {name: label for label, name in enumerate(class_names)}
    for name in split_classes:
        found = image_files(split_folder / name)
        if not found:
            empty.append(name)
        paths += found
        labels += [label_of[name]] * len(found)
    if empty:
        raise ValueError(
            f"`dataset` must have {', '.join(SUFFIXES)} images in every class folder. "
            f"Received: dataset={str(root)!r}, without images in the classes "
            f"{', '.join(empty[:10])} of {FOLDERS[split]}/"
        )

    order = file_order(len(paths), split, seed)
    names = [os.path.relpath(path, os.fsencode(root)) for path in paths]
    return ImageSource(
        name=f"{root.name}/{split}",
        records=tf.data.Dataset.from_tensor_slices(
            (
                np.array(paths, dtype=object)[order],
                np.array(labels, np.int64)[order],
                np.array(names, dtype=object)[order],
            )
        ),
        read=tf.io.read_file,
        class_names=class_names,
        num_examples=len(paths),
        shuffle_buffer=len(paths),  # only paths
    )


def check_split(split: str) -> None:
    """Raises a `ValueError` unless `split` is a split of an image folder."""
    if split not in FOLDERS:
        raise ValueError(
            f"`split` of an image folder must be one of {tuple(FOLDERS)}. "
            f"Received: split={split!r}"
        )


def image_files(
    folder: pathlib.Path, suffixes: tuple[str, ...] = SUFFIXES
) -> list[bytes]:
    """Returns the sorted paths of the image files of a folder.

    Paths are bytes, because file names need not be UTF-8. Entries that are not regular
    files are skipped with a warning, because reading a pipe or a device can block. A
    link to a missing file is returned, and counts as a broken image when it is read.
    """
    found, special = [], []
    for entry in os.scandir(folder):
        if entry.name.startswith(".") or not entry.name.lower().endswith(suffixes):
            continue
        if entry.is_file() or not os.path.exists(entry.path):
            found.append(os.fsencode(entry.path))
        else:
            special.append(entry.name)
    if special:
        warnings.warn(
            f"Skipping {len(special)} entries of {str(folder)!r} that are not regular "
            f"files: {', '.join(repr(name) for name in sorted(special)[:10])}",
            stacklevel=2,
        )
    return sorted(found)


def file_order(count: int, split: str, seed: int) -> np.ndarray:
    """Returns a random order for `"train"`, otherwise the given order."""
    if split == "train":
        return np.random.default_rng(seed).permutation(count)
    return np.arange(count)


def _class_folders(folder: pathlib.Path, root: pathlib.Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise ValueError(
            "`dataset` must be a folder with train/CLASS/ and val/CLASS/. "
            f"Received: dataset={str(root)!r}, which has no folder {folder.name}/"
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
            "`dataset` must be a folder with train/CLASS/ and val/CLASS/. "
            f"Received: dataset={str(root)!r}, whose {folder.name}/ has no class "
            "folders"
        )
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"Class folders must have UTF-8 names. Received: {name!r} in "
                f"{str(folder)!r}"
            ) from error
    return names
