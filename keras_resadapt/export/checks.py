"""Validation shared by all exporters."""

import os


def check_path(path: str | os.PathLike) -> str:
    """Validates the path of an export.

    Args:
        path: A path on a local disk at which nothing exists.

    Returns:
        The absolute path.

    Raises:
        ValueError: If the path is empty or a URL.
        FileExistsError: If something exists at the path.
    """
    path = os.fspath(path)
    if not path or "://" in path:
        raise ValueError(f"`path` must be on a local disk. Received: path={path!r}")
    path = os.path.abspath(os.path.expanduser(path))
    if os.path.lexists(path):
        raise FileExistsError(
            "`path` must not exist: export a new version beside it, or remove "
            f"it. Received: path={path!r}"
        )
    return path


def check_class_names(class_names, num_classes: int) -> list[str] | None:
    """Validates the names of the classes and returns them as a list."""
    if class_names is None:
        return None
    if isinstance(class_names, (str, bytes)) or not all(
        isinstance(name, str) for name in class_names
    ):
        raise ValueError(
            "`class_names` must be a sequence of strings. "
            f"Received: class_names={class_names!r}"
        )
    if len(class_names) != num_classes:
        raise ValueError(
            f"`class_names` must hold one name per class, {num_classes} names. "
            f"Received: {len(class_names)} names"
        )
    return [str(name) for name in class_names]  # JSON needs Python strings
