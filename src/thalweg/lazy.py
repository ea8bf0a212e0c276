"""Import a public name when it is first used (PEP 562), so that nobody waits for what they do not call."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["attach"]


def attach(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's `__getattr__` and `__dir__`.

    Args:
        package: its `__name__`.
        homes: public name → the module it lives in; a submodule that is public itself is its own home.

    Example:
        >>> get, _ = attach("thalweg", {"Outcome": "thalweg.outcomes", "units": "thalweg.units"})
        >>> get("Outcome").OK.name, get("units").format_count(2000)
        ('OK', '2k')
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(homes[name])
        value = module if homes[name] == f"{package}.{name}" else getattr(module, name)
        setattr(sys.modules[package], name, value)  # the next use does not come here
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return get, names
