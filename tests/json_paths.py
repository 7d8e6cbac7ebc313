"""Places in a message, by the paths that errors name."""

from typing import Any


def at(value: Any, path: str) -> tuple[Any, Any]:
    """The container and the key of a path such as ``a.b[0].c``."""
    steps = [
        int(step) if step.isdecimal() else step for step in path.replace("[", ".").replace("]", "").split(".")
    ]
    for step in steps[:-1]:
        value = value[step]
    return value, steps[-1]
