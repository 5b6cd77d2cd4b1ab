"""Image files and TFRecord files, in blocks that are scored one by one."""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import os
import tempfile
import urllib.parse
from collections.abc import Iterator, Sequence

import pyarrow.fs
from scoring import ScoringError, file_system_of

_EXTENSIONS = (".jpg", ".jpeg", ".png", ".gif", ".bmp")
_READERS = 16  # files that are read at the same time; object stores need many


@dataclasses.dataclass(frozen=True)
class Source:
    """One of the inputs: a folder or a file.

    Attributes:
        file_system: The file system of the input.
        root: The path of the input in the file system.
        name: The path or URI of the input, without credentials and options.
    """

    file_system: pyarrow.fs.FileSystem
    root: str
    name: str

    def key(self, path: str) -> str:
        """Returns the unique name of a file of this input."""
        return self.name + path[len(self.root) :]


@dataclasses.dataclass(frozen=True)
class ImageFile:
    """A file that holds one image, or a TFRecord file.

    Attributes:
        key: The unique name of the file.
        source: The index of its input.
        path: Its path in the file system of the input.
        version: Its size and time of modification.
    """

    key: str
    source: int
    path: str
    version: str

    @property
    def has_records(self) -> bool:
        """Whether this is a TFRecord file."""
        return ".tfrecord" in os.path.basename(self.path)


# === Listing ===


def open_sources(inputs: Sequence[str]) -> list[Source]:
    """Returns the inputs of the flag `--inputs`."""
    sources = []
    for uri in inputs:
        file_system, root = file_system_of("inputs", uri)
        root = root.rstrip("/")
        name = root
        if "://" in uri:
            parts = urllib.parse.urlsplit(uri)
            host = parts.netloc.rpartition("@")[2]
            name = f"{parts.scheme}://{host}{parts.path}".rstrip("/")
        sources.append(Source(file_system, root, name))
    return sources


def list_files(sources: Sequence[Source]) -> list[ImageFile]:
    """Lists the image files and TFRecord files of all inputs.

    Folders are listed with all folders in them. A file whose name starts with a dot
    is left out.

    Returns:
        Each file once, sorted by key.

    Raises:
        ScoringError: If an input does not exist, or if there are no files.
    """
    files = {}
    for number, source in enumerate(sources):
        for info in _list(source):
            key = source.key(info.path)
            version = f"{info.size} {info.mtime_ns}"
            files.setdefault(key, ImageFile(key, number, info.path, version))
    if not files:
        raise ScoringError(
            f"--inputs must hold images ({', '.join(_EXTENSIONS)}) or TFRecord files "
            f"(.tfrecord in their names). Received: {_names(sources)}"
        )
    return [files[key] for key in sorted(files)]


def _list(source) -> Iterator[pyarrow.fs.FileInfo]:
    info = source.file_system.get_file_info(source.root)
    if info.is_file:
        yield info
    elif info.type == pyarrow.fs.FileType.Directory:
        selector = pyarrow.fs.FileSelector(source.root, recursive=True)
        for info in source.file_system.get_file_info(selector):
            name = info.base_name.lower()
            known = name.endswith(_EXTENSIONS) or ".tfrecord" in name
            if info.is_file and known and not name.startswith("."):
                yield info
    else:
        raise ScoringError(
            f"--inputs must be existing folders or files. Received: {_names([source])}"
        )


def _names(sources) -> str:
    return " ".join(source.name for source in sources)


def fingerprint(files: Sequence[ImageFile]) -> str:
    """Returns a hash of the names, sizes and times of modification of files."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.key}\0{file.version}\n".encode())
    return digest.hexdigest()


# === Blocks ===


def make_blocks(files: Sequence[ImageFile], block_size: int) -> list[dict]:
    """Divides files into blocks.

    Args:
        files: The files, sorted.
        block_size: The number of images per block. A TFRecord file is a block of
            its own.

    Returns:
        One dict per block, in order: `block`, its number; `source`, the index of
        the input; `records`, whether it is a TFRecord file; and `paths`.
    """
    blocks = []
    for file in files:
        last = blocks[-1] if blocks else None
        if (
            last is None
            or file.has_records
            or last["records"]
            or last["source"] != file.source
            or len(last["paths"]) == block_size
        ):
            last = {
                "block": len(blocks),
                "source": file.source,
                "records": file.has_records,
                "paths": [],
            }
            blocks.append(last)
        last["paths"].append(file.path)
    return blocks


# === Reading ===


def read_block(
    source: Source, block: dict, feature: str
) -> Iterator[tuple[str, bytes | Exception]]:
    """Reads the images of a block.

    Args:
        source: The input of the block.
        block: A block, as `make_blocks` returns it.
        feature: The feature of a TFRecord file that holds the encoded image.

    Yields:
        The key of each image, and its content, or the reason for which it cannot
        be read.

    Raises:
        OSError: If a file system fails. A file that is missing or that must not be
            read is no such failure.
    """
    if block["records"]:
        (path,) = block["paths"]
        yield from _read_records(source, path, feature)
        return
    with concurrent.futures.ThreadPoolExecutor(_READERS) as executor:
        images = executor.map(
            lambda path: _read_image(source.file_system, path), block["paths"]
        )
        for path, image in zip(block["paths"], images):
            yield source.key(path), image


def _read_image(file_system, path) -> bytes | Exception:
    try:
        with file_system.open_input_file(path) as file:
            return file.read()
    except (FileNotFoundError, PermissionError) as error:
        return error


def _read_records(source, path, feature) -> Iterator[tuple[str, bytes | Exception]]:
    import tensorflow as tf

    key, count = source.key(path), 0
    missing = (FileNotFoundError, PermissionError, tf.errors.NotFoundError)
    try:
        with _local_copy(source.file_system, path) as local:
            compression = "GZIP" if path.endswith(".gz") else None
            records = tf.data.TFRecordDataset(local, compression)
            for record in records.as_numpy_iterator():
                yield f"{key}#{count}", _image_of(record, feature)
                count += 1
    except (*missing, tf.errors.DataLossError) as error:
        # The records that follow a damaged one cannot be found.
        yield f"{key}#{count}", error


def _image_of(record, feature) -> bytes | Exception:
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    try:
        features = tf.train.Example.FromString(record).features.feature
    except DecodeError as error:
        return error
    if feature not in features or len(features[feature].bytes_list.value) != 1:
        names = ", ".join(sorted(features))
        return ValueError(f"The record has no image {feature!r}. It has: {names}")
    return features[feature].bytes_list.value[0]


@contextlib.contextmanager
def _local_copy(file_system, path) -> Iterator[str]:
    """Yields the path at which TensorFlow can read a file of any file system."""
    if file_system.type_name == "local":
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        local = os.path.join(folder, "records")
        pyarrow.fs.copy_files(path, local, file_system, pyarrow.fs.LocalFileSystem())
        yield local
