"""Read a schedule from its text form: a factory call with literals. Read by `ast`, never evaluated."""

from __future__ import annotations

import ast
import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from thalweg.outcomes import bad_input
from thalweg.schedules import factories, tabulated
from thalweg.schedules.schedule import Schedule

__all__ = ["parse"]

FACTORIES: Mapping[str, Callable[..., Schedule]] = {
    name: getattr(module, name) for module in (factories, tabulated) for name in module.__all__
}
EXAMPLE = "Write for example cosine(0.003, 10000, warmup=500)"


def parse(text: str) -> Schedule:
    """Read the text form of a schedule, the same on the command line, in tables and in JSON: `parse(str(s)) == s`.

    Raises:
        ThalwegError: not a call of a factory with literals, an unknown factory or keyword, a value it refuses.

    Example:
        >>> s = parse("cosine(0.003, 10000, warmup=500, final_lr=1e-5)")
        >>> s.phases.warmup_end, str(s)
        (500, 'cosine(0.003, 10000, warmup=500, final_lr=1e-05)')
    """
    if not isinstance(text, str):
        raise bad_input("schedule", text, "a text", EXAMPLE)
    try:
        text = text.strip()
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise bad_input("schedule", text, "a factory call in Python syntax", EXAMPLE) from None
    return _schedule(tree.body, text)


def _schedule(node: ast.expr, text: str) -> Schedule:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise bad_input("schedule", text, "a factory call in Python syntax", EXAMPLE)
    name = node.func.id
    if name not in FACTORIES:
        near = difflib.get_close_matches(name, FACTORIES, n=1)
        raise bad_input("schedule", name, "one of " + ", ".join(FACTORIES), f"Write {near[0]}(…)" if near else "")
    factory, signature = FACTORIES[name], inspect.signature(FACTORIES[name])
    arguments = [_value(argument, text) for argument in node.args]
    # `**{...}` has no name; it is refused with the signature like any unknown keyword
    options = {keyword.arg or "**": _value(keyword.value, text) for keyword in node.keywords}
    try:
        signature.bind(*arguments, **options)
    except TypeError as error:
        raise bad_input("schedule", text, _usage(name, signature), f"({error})") from None
    return factory(*arguments, **options)


def _value(node: ast.expr, text: str) -> Any:
    if isinstance(node, ast.Call):
        return _schedule(node, text)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        # not ast.unparse, which recurses as deep as what was refused
        given = ast.get_source_segment(text, node)
        raise bad_input("schedule", given, "numbers, texts in quotes, lists or schedules as values", EXAMPLE) from None


def _usage(name: str, signature: inspect.Signature) -> str:
    parts = []
    for parameter in signature.parameters.values():
        if parameter.default is not inspect.Parameter.empty:
            parts.append(f"{parameter.name}={parameter.default!r}")
        else:
            parts.append(f"{parameter.name}=…" if parameter.kind is parameter.KEYWORD_ONLY else parameter.name)
    return f"{name}({', '.join(parts)})"
