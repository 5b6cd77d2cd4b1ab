"""A lock that keeps two processes from writing to one folder."""

import contextlib
import datetime
import json
import os
import socket
from collections.abc import Iterator

_NAME = "lock.json"


@contextlib.contextmanager
def lock_folder(folder: str | os.PathLike) -> Iterator[None]:
    """Locks a folder for this process while the block runs.

    The lock is the file `lock.json` in the folder, which names the process:
    its id, its host and the time at which it locked the folder. The operating
    system releases the lock when the process ends, however it ends, so that
    the lock of a killed process does not have to be removed.

    On file systems without file locks, and on Windows, folders are not locked.

    Args:
        folder: An existing folder.

    Raises:
        BlockingIOError: If another process has locked the folder. The message
            names the process.
    """
    path = os.path.join(folder, _NAME)
    with _open_locked(path) as file:
        file.truncate(0)
        json.dump(
            {
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "started": datetime.datetime.now().isoformat(" ", "seconds"),
            },
            file,
        )
        file.flush()
        try:
            yield
        finally:
            # While it is still locked, so that no other process's is removed
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)


def _open_locked(path: str):
    """Opens the file at a path and locks it."""
    while True:
        file = open(path, "a+", encoding="utf-8")
        try:
            _lock(file)
        except BlockingIOError:
            file.seek(0)
            owner = file.read()
            file.close()
            raise BlockingIOError(
                f"The folder {os.path.dirname(path)!r} is in use by another "
                f"process: {_describe(owner)}."
            ) from None
        # The process that held the lock before may have removed this file
        # after it was opened here, in which case it locks nothing.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        file.close()


def _lock(file) -> None:
    """Locks an open file, or raises a `BlockingIOError`."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # a file system without locks
        pass


def _describe(owner: str) -> str:
    try:
        owner = json.loads(owner)
        return (
            f"process {owner['pid']} on host {owner['host']}, started at "
            f"{owner['started']}"
        )
    except (ValueError, KeyError, TypeError):  # is being written
        return "its name is not known yet"
