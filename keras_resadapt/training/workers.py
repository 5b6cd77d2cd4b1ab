"""Placeholder until the functions over several workers are merged."""


def num_workers() -> int:
    return 1


def is_chief() -> bool:
    return True


def gather_from_workers(value) -> list:
    return [value]


def run_on_chief(function):
    return function()
