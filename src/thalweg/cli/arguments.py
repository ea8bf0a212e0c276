"""Argument types that several commands share, and the two places output goes: answers on stdout, prose on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter, Token

from thalweg.outcomes import bad_input
from thalweg.units import parse_count

__all__ = ["Count", "Json", "Out", "Seed", "load_object", "print_json", "tell"]


def _count(_: type, tokens: Sequence[Token]) -> float:
    return parse_count(tokens[0].value)


Count = Annotated[float, Parameter(converter=_count, accepts_keys=False, n_tokens=1)]
Json = Annotated[bool, Parameter(negative=(), help="Print the answer as JSON on stdout.")]
Seed = Annotated[int, Parameter(help="Seed of every random choice.")]
Out = Annotated[Path, Parameter(help="Folder to write to; it is made where it is absent.")]


def tell(text: str) -> None:
    """Prose for a person: to stderr, so that stdout stays an answer."""
    print(text, file=sys.stderr, flush=True)


def print_json(answer: Mapping[str, Any]) -> None:
    """Strict JSON on stdout."""
    print(json.dumps(answer, indent=1, allow_nan=False))


def load_object(reference: str, flag: str) -> Any:
    """Import `package.module:name` (the working directory is searched too).

    Raises:
        ThalwegError: no colon, no such module, no such name.
    """
    import importlib

    module_name, _, name = reference.partition(":")
    expected, instead = "an importable package.module:name", f"Write for example {flag} my_training.model:build"
    if not name:
        raise bad_input(flag, reference, expected, instead)
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return getattr(importlib.import_module(module_name), name)
    except ModuleNotFoundError as error:
        raise bad_input(
            flag, reference, expected, f"There is no module {error.name}; {instead[0].lower() + instead[1:]}"
        ) from None
    except AttributeError:
        raise bad_input(flag, reference, expected, f"{module_name} has no {name}") from None
