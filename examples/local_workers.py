"""Starts several workers of one training on this machine.

    python examples/local_workers.py 2 examples/train_rsnet.py \\
        --strategy=multi_worker --output_dir=runs/two_workers

The first argument is the number of workers, and the rest is the command of each. It
serves to try out what runs on several machines: there, each machine starts its own
worker with its own `TF_CONFIG`.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

# Otherwise glibc returns the memory of the gradients to the system after each step.
KEEP_MEMORY = {"MALLOC_TOP_PAD_": "200000000"}


def free_addresses(count: int) -> list[str]:
    """Returns addresses of this machine whose ports are free."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    finally:
        for s in sockets:
            s.close()


def start_workers(
    count: int,
    command: Sequence[str],
    options_of: Callable[[int], dict[str, Any]] = lambda index: {},
) -> list[subprocess.Popen]:
    """Starts the workers of a cluster, each with its `TF_CONFIG`.

    Args:
        count: The number of workers.
        command: A Python script and its arguments.
        options_of: Further arguments of `subprocess.Popen` for a worker.
    """
    addresses = free_addresses(count)
    processes = []
    for index in range(count):
        config = {
            "cluster": {"worker": addresses},
            "task": {"type": "worker", "index": index},
        }
        processes.append(
            subprocess.Popen(
                [sys.executable, *map(str, command)],
                env={**KEEP_MEMORY, **os.environ, "TF_CONFIG": json.dumps(config)},
                **options_of(index),
            )
        )
    return processes


def wait_for(processes: Sequence[subprocess.Popen], timeout: float | None = None):
    """Waits for processes, and returns their exit codes.

    Args:
        processes: The processes.
        timeout: Seconds after which they are killed.

    Raises:
        subprocess.TimeoutExpired: If a process runs for longer.
    """
    try:
        return [process.wait(timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main() -> None:
    if len(sys.argv) < 3 or not sys.argv[1].isdigit() or int(sys.argv[1]) < 1:
        sys.exit(__doc__)
    codes = wait_for(start_workers(int(sys.argv[1]), sys.argv[2:]))
    sys.exit(next((code for code in codes if code), 0))


if __name__ == "__main__":
    main()
