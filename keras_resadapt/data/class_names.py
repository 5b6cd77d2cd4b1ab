"""Files of class names."""

import os
import re
from collections.abc import Sequence

_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}
_CHARACTERS = {escape: character for character, escape in _ESCAPES.items()}


def write_class_names(path: str | os.PathLike, names: Sequence[str]) -> None:
    r"""Writes class names to a UTF-8 text file, one name per line, in label order.

    Line breaks and backslashes in a name are written as `\n`, `\r` and `\\`, so that
    `read_class_names` returns any names unchanged.

    Args:
        path: The file to write.
        names: One name per label.
    """
    lines = (re.sub(r"[\\\n\r]", lambda m: _ESCAPES[m[0]], name) for name in names)
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)


def read_class_names(path: str | os.PathLike) -> tuple[str, ...]:
    """Reads the class names that `write_class_names` wrote.

    Args:
        path: A UTF-8 text file with one name per line.

    Returns:
        One name per label.

    Raises:
        ValueError: If the file is empty or is not UTF-8 text.
    """
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"`path` must be a UTF-8 text file with one class name per line. "
            f"Received: path={os.fspath(path)!r}"
        ) from error
    if lines == [""]:
        raise ValueError(
            "`path` must have at least one class name. "
            f"Received: path={os.fspath(path)!r}, an empty file"
        )
    return tuple(re.sub(r"\\[\\nr]", lambda m: _CHARACTERS[m[0]], x) for x in lines)
