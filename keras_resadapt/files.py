"""Atomic writes, and JSON files from untrusted sources."""

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator

_MAX_JSON_BYTES = 10_000_000


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[str]:
    """Writes a file completely or not at all.

    Yields a temporary path in the same folder with the same extension. When
    the block ends, the file that was written there is flushed to disk and
    replaces `path` in one step. When the block raises an exception, the
    temporary file is removed and `path` keeps its content. The temporary name
    is unique, so that several processes can write to one `path`; the last one
    to finish wins.

    Args:
        path: The file to write or replace. Its folder must exist.

    Raises:
        FileNotFoundError: If the folder of `path` does not exist.
        IsADirectoryError: If `path` is a folder.

    Example:

    >>> with atomic_path("model.keras") as temporary:
    ...     model.save(temporary)
    """
    path = os.fspath(path)
    folder, name = os.path.split(path)
    if not os.path.isdir(folder or os.curdir):
        raise FileNotFoundError(
            f"`path` must be in an existing folder. Received: path={path!r}"
        )
    if os.path.isdir(path):
        raise IsADirectoryError(
            f"`path` must be a file, not a folder. Received: path={path!r}"
        )
    # Keras chooses the format by the end of the name, which therefore stays.
    temporary = os.path.join(folder, f".{uuid.uuid4().hex[:12]}.{name}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)


@contextlib.contextmanager
def atomic_folder(path: str) -> Iterator[str]:
    """Writes a folder completely or not at all.

    Yields the path of a temporary folder beside `path`, which the block
    creates and fills. When the block ends, the folder is renamed to `path`.
    When the block raises an exception, the temporary folder is removed.

    Args:
        path: The new folder. Its parent must exist.
    """
    parent, name = os.path.split(path)
    temporary = os.path.join(parent, f".{uuid.uuid4().hex[:12]}.{name}")
    try:
        yield temporary
        os.rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: str | os.PathLike, content) -> None:
    """Writes a JSON file completely or not at all.

    Args:
        path: The file to write or replace.
        content: Nested dicts, lists, strings, booleans and finite numbers.

    Raises:
        ValueError: If a number is NaN or infinite.
    """
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")


def read_json(path: str | os.PathLike, max_bytes: int = _MAX_JSON_BYTES):
    """Reads a JSON file from an untrusted source.

    Args:
        path: A regular file.
        max_bytes: The size up to which a file is read.

    Returns:
        Nested dicts, lists, strings, booleans and finite numbers.

    Raises:
        FileNotFoundError: If there is no file at `path`.
        ValueError: If `path` is not a regular file or is larger than
            `max_bytes`, or if its content is not valid JSON, is nested too
            deeply or contains NaN or infinity. The message names the file.
    """
    path = os.fspath(path)
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe would block
        raise ValueError(f"`path` must be a regular file. Received: path={path!r}")
    with open(path, "rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"{path!r} is larger than {max_bytes} bytes.")
    try:
        return json.loads(
            content, parse_constant=_refuse_constant, parse_float=_finite_float
        )
    except RecursionError:
        raise ValueError(f"{path!r} is nested too deeply.") from None
    except ValueError as error:
        raise ValueError(f"{path!r} is not a valid JSON file: {error}") from None


def _refuse_constant(name: str):
    raise ValueError(f"numbers must be finite, but one is {name}")


def _finite_float(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        _refuse_constant(text)
    return number
