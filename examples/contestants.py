"""Contestants of a benchmark: processes that run steps, one after the other.

This module imports no framework, so that a process has only its own.
"""

import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence

from tables import print_table


def work(step: Callable[[], object], num_parameters: int = 0) -> None:
    """Runs one step for each line of stdin.

    Args:
        step: A function that waits until its result has been computed.
        num_parameters: The number of trainable parameters of its network.
    """
    print("READY", num_parameters, memory("VmRSS"), flush=True)
    for _ in sys.stdin:
        step()
        print("DONE", flush=True)
    print("PEAK", memory("VmHWM"), flush=True)


def memory(field: str) -> float:
    """Returns this process's memory in GB.

    Args:
        field: `"VmRSS"` for the present memory, `"VmHWM"` for its peak.
    """
    # Not `getrusage`, whose peak includes that of the parent process
    with open("/proc/self/status") as file:
        (line,) = [line for line in file if line.startswith(f"{field}:")]
    return int(line.split()[1]) / 1e6


def print_times(
    times: Mapping[str, Sequence[float]], contestants: "Mapping[str, Contestant]"
) -> None:
    """Prints times in milliseconds and the memory of closed contestants, by name."""
    print_table(
        ["contestant", "median ms", "min", "max", "peak (GB)", "of its steps"],
        [
            [
                name,
                *(f"{f(ms):.1f}" for f in (statistics.median, min, max)),
                f"{contestants[name].peak:.2f}",
                f"{contestants[name].peak - contestants[name].start:.2f}",
            ]
            for name, ms in times.items()
        ],
    )


def print_ratios(
    times: Mapping[str, Sequence[float]],
    aims: Iterable[tuple[str, str, float | None]],
) -> None:
    """Prints median ratios of times within the same rounds.

    Args:
        times: The times of each contestant.
        aims: Two contestants each, and the largest ratio that is aimed at, or None.
            Contestants that were not timed are left out.
    """
    print_table(
        ["contestants", "median ratio", "aim"],
        [
            [
                f"{a} / {b}",
                f"{statistics.median(x / y for x, y in zip(times[a], times[b])):.3f}",
                f"at most {aim}" if aim else "-",
            ]
            for a, b, aim in aims
            if a in times
        ],
    )


class Contestant:
    """A process that calls `work`.

    Args:
        command: The script and its arguments.

    Attributes:
        num_parameters: The number of trainable parameters.
        start: The memory before the first step, in GB.
        peak: The peak memory in GB, after `close`.
    """

    def __init__(self, command: Sequence[str]):
        self.command = command
        self.process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        count, start = self._wait_for("READY")
        self.num_parameters, self.start = int(count), float(start)

    def _wait_for(self, word):
        for line in self.process.stdout:
            if line.startswith(word):
                return line.split()[1:]
        raise RuntimeError(f"The process of {self.command} ended.")

    def run(self) -> None:
        """Runs a step and waits for its end."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self._wait_for("DONE")

    def close(self) -> None:
        """Ends the process."""
        self.process.stdin.close()
        self.peak = float(self._wait_for("PEAK")[0])
        self.process.wait()
