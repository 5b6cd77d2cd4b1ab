"""Shared parts of the scripts that compare RS-Net with its baselines."""

import json
import os
import statistics
from collections.abc import Callable, Iterable, Sequence


def planned_runs(
    names: Iterable[str], resolutions: tuple[int, ...]
) -> list[tuple[str, tuple[int, ...], str]]:
    """Returns (name, trained resolutions, distillation) of each network to train.

    Args:
        names: Some of `"rsnet"`, `"parallel"` and `"inet"`.
        resolutions: Resolutions in pixels, the largest first.
    """
    if unknown := set(names) - {"rsnet", "parallel", "inet"}:
        raise ValueError(
            "--runs must be some of rsnet, parallel and inet. "
            f"Received: {', '.join(sorted(unknown))}"
        )
    runs = []
    if "rsnet" in names:
        runs.append(("rsnet", resolutions, "full"))
    if "parallel" in names:
        runs.append(("parallel", resolutions, "none"))
    if "inet" in names:
        runs += [(f"inet_{r}", (r,), "none") for r in resolutions]
    return runs


def read_rows(path: str) -> list[dict]:
    """Returns the results of the finished trainings, lines of JSON."""
    if not os.path.exists(path):
        return []
    with open(path) as lines:
        return [json.loads(line) for line in lines]


def append_row(path: str, row: dict) -> None:
    """Adds the result of a training to the file."""
    with open(path, "a") as lines:
        lines.write(json.dumps(row) + "\n")


def collect_columns(
    rows: Iterable[dict],
    names: Sequence[str],
    score_of: Callable[[dict, str], float],
) -> dict[str, dict[str, list[float]]]:
    """Sorts the results into the columns of the paper's tables.

    Args:
        rows: The results of `read_rows`.
        names: The operating points, the largest first.
        score_of: Returns the score in [0, 1] of a row at an operating point.

    Returns:
        The scores of all seeds in percent, by column and operating point.
    """
    scores: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        columns = {row["run"]: names}
        if row["run"].startswith("inet_"):
            trained = "r" + row["run"].removeprefix("inet_")
            columns = {"individual": [trained]}
            if trained == names[0]:
                columns[f"only {trained}"] = names
        for column, points in columns.items():
            for name in points:
                cell = scores.setdefault(column, {}).setdefault(name, [])
                cell.append(100 * score_of(row, name))
    return scores


def mean_and_spread(values: Sequence[float]) -> str:
    """Returns the cell of a table: the mean, with the deviation of several seeds."""
    if not values:
        return "-"
    spread = f" +- {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"
