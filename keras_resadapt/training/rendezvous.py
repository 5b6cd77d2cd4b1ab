"""The meeting of all workers before TensorFlow connects them.

TensorFlow waits for an hour for a worker that does not come, and does not notice
that two workers describe the cluster in different ways. So the workers meet first:
each of them tries its own port and sends its description of the cluster to the
chief, which replies when all of them have connected or the time limit has passed.
"""

import contextlib
import json
import socket
import time

from keras_resadapt.training.cluster import Cluster

_MAX_BYTES = 1_000_000
# How long the chief waits for the others once it knows that something is wrong
_PATIENCE = 5.0


def meet(cluster: Cluster, timeout_seconds: float) -> None:
    """Waits until all workers are there and agree about the cluster.

    Args:
        cluster: The cluster, as this worker sees it.
        timeout_seconds: How long to wait for the others.

    Raises:
        ValueError: If the description of the cluster differs between the workers.
        OSError: If the port of a worker is in use.
        TimeoutError: If a worker does not come in time.
    """
    end = time.monotonic() + timeout_seconds
    if cluster.index == 0:
        problem = _meet_as_chief(cluster, end)
    else:
        problem = _meet_chief(cluster, end)
    if problem is None:
        return
    kind = {"port": OSError, "missing": TimeoutError}.get(problem[0], ValueError)
    raise kind(problem[1])


def _meet_as_chief(cluster: Cluster, end: float) -> list[str] | None:
    """Waits for all others, and sends all of them what is wrong, or None."""
    try:
        server = _listen(cluster)
    except OSError as error:
        return _port_problem(cluster, error)
    guests: dict[int, socket.socket] = {}
    problem = None
    with server, contextlib.ExitStack() as connections:
        while len(guests := _still_there(guests)) < len(cluster.addresses) - 1:
            server.settimeout(max(0.01, end - time.monotonic()))
            try:
                guest, _ = server.accept()
            except TimeoutError:
                problem = problem or _missing_problem(cluster, guests)
                break
            connections.enter_context(guest)
            message = _receive(guest, min(end, time.monotonic() + 10))
            if not isinstance(message, dict) or type(message.get("index")) is not int:
                continue  # not a worker
            guests = _still_there(guests)
            found = _compare(cluster, message, guests)
            guests.setdefault(message["index"], guest)
            if found and not problem:
                problem, end = found, min(end, time.monotonic() + _PATIENCE)
        for guest in guests.values():
            _send(guest, {"problem": problem})
        for guest in guests.values():
            # The guest closes first, which leaves the chief's port free.
            _receive(guest, time.monotonic() + 5)
    return problem


def _meet_chief(cluster: Cluster, end: float) -> list[str] | None:
    """Reports to the chief, and returns what is wrong, or None."""
    problem = None
    try:
        _listen(cluster).close()
    except OSError as error:
        problem = _port_problem(cluster, error)
    report = {"index": cluster.index, "jobs": cluster.jobs, "problem": problem}
    host, _, port = cluster.addresses[0].rpartition(":")
    while time.monotonic() < end:
        try:
            with socket.create_connection((host, int(port)), timeout=5) as chief:
                _send(chief, report)
                # The chief may be waiting for others, until its own time limit.
                answer = _receive(chief, end + 2 * _PATIENCE)
        except OSError:
            answer = None
        if isinstance(answer, dict) and "problem" in answer:
            return problem or answer["problem"]
        time.sleep(0.2)
    return problem or [
        "missing",
        f"Worker 0, the chief, must answer at {cluster.addresses[0]}, as "
        f"{cluster.origin} says. Received: no answer within the time limit",
    ]


def _compare(cluster: Cluster, message: dict, guests: dict) -> list[str] | None:
    """Returns what is wrong with a worker that has come, or None."""
    index = message["index"]
    if message.get("problem"):
        return message["problem"]
    if message.get("jobs") != cluster.jobs:
        return [
            "cluster",
            f"All workers must have the same cluster in {cluster.origin}. Received: "
            f"{json.dumps(cluster.jobs)} on worker 0, "
            f"{json.dumps(message.get('jobs'))} on worker {index}",
        ]
    if index in guests:
        return [
            "cluster",
            f"Each worker must have an index of its own in {cluster.origin}. "
            f"Received: two workers with the index {index}",
        ]
    return None


def _port_problem(cluster: Cluster, error: OSError) -> list[str]:
    return [
        "port",
        f"Worker {cluster.index} must be able to listen at "
        f"{cluster.addresses[cluster.index]}, its address in {cluster.origin}. "
        f"Received: {error.strerror or error}",
    ]


def _missing_problem(cluster: Cluster, guests: dict) -> list[str]:
    missing = [
        f"worker {index} at {address}"
        for index, address in enumerate(cluster.addresses)
        if index and index not in guests
    ]
    return [
        "missing",
        f"All {len(cluster.addresses)} workers of {cluster.origin} must connect within "
        f"the time limit. Missing: {', '.join(missing)}",
    ]


def _listen(cluster: Cluster) -> socket.socket:
    """Returns a socket that listens at the port of this worker."""
    host, _, port = cluster.addresses[cluster.index].rpartition(":")
    # The name of a host may belong to a service in front of it.
    local = host in ("localhost", "127.0.0.1")
    server = socket.socket()
    try:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1" if local else "", int(port)))
        server.listen(len(cluster.addresses))
    except OSError:
        server.close()
        raise
    return server


def _still_there(guests: dict[int, socket.socket]) -> dict[int, socket.socket]:
    """Returns the guests that still wait; one that has died may come again."""
    return {index: guest for index, guest in guests.items() if not _has_left(guest)}


def _has_left(connection: socket.socket) -> bool:
    """Returns whether the other side, which sends nothing more, has closed."""
    connection.settimeout(0)
    try:
        return not connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _send(connection: socket.socket, message: dict) -> None:
    connection.settimeout(5)
    with contextlib.suppress(OSError):  # it has left
        connection.sendall(json.dumps(message).encode() + b"\n")


def _receive(connection: socket.socket, end: float):
    """Returns the JSON value of the next line; None for anything else."""
    received = b""
    while not received.endswith(b"\n") and len(received) < _MAX_BYTES:
        connection.settimeout(max(0.01, end - time.monotonic()))
        try:
            part = connection.recv(65536)
        except OSError:
            return None
        if not part:
            return None
        received += part
    try:
        return json.loads(received)
    except (ValueError, RecursionError):
        return None
