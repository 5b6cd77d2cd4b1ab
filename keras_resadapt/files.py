"""JSON files that are complete or not there."""

import json
import os


def write_json(path: str | os.PathLike, content) -> None:
    """Writes a JSON file beside its place and moves it there."""
    unfinished = f"{os.fspath(path)}.unfinished"
    with open(unfinished, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
    os.replace(unfinished, path)
