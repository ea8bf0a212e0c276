"""A law and the options of its fit as text: `OptLaw(batch_terms=True)`. Read by `ast`, never evaluated."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from thalweg import laws
from thalweg.outcomes import bad_input

if TYPE_CHECKING:
    from thalweg.laws.law import Law

__all__ = ["fitter"]

EXAMPLE = "Write for example OptLaw or OptLaw(batch_terms=True)"


def fitter(text: str) -> Callable[[Any], Law]:
    """What fits the law that a text names, with the options in its parentheses.

    Args:
        text: a law's name, or a call of it with options of its `fit` as literals; `select` is the law that wins on the table.

    Raises:
        ThalwegError: not of this form, an unknown law or option.

    Example:
        >>> fit = fitter("OptLaw(phases='tables', ridge=0)")
        >>> fit.keywords
        {'phases': 'tables', 'ridge': 0}
    """
    name, options = _read(text)
    fit: Callable[..., Law] = laws.select if name == "select" else laws.find(name).fit
    known = [option for option in inspect.signature(fit).parameters if option not in ("runs", "curves")]
    if not set(options) <= set(known):
        raise bad_input("law", text, "options of its fit: " + (", ".join(known) or "none"), EXAMPLE)
    return partial(fit, **options)


def _read(text: str) -> tuple[str, dict[str, Any]]:
    try:
        node = ast.parse(text.strip(), mode="eval").body
        if isinstance(node, ast.Name):
            return node.id, {}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
            return node.func.id, {str(option.arg): ast.literal_eval(option.value) for option in node.keywords}
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        pass
    raise bad_input("law", text, "a law's name, with options in parentheses", EXAMPLE)
