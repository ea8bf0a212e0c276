"""Weights in files: read whatever holds a state dict, write safetensors, load with every mismatch named."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thalweg.outcomes import ThalwegError, bad_input
from thalweg.results import write_atomically

if TYPE_CHECKING:
    import torch
    from torch import nn

    State = Mapping[str, torch.Tensor]

__all__ = ["load_into", "read", "unwrapped", "write"]

# what DataParallel and DDP, and torch.compile, put before every name
_WRAPPERS = ("module.", "_orig_mod.")
# where training scripts put the weights inside a .pt file
_NESTED = ("state_dict", "model_state_dict", "model", "module", "weights")
_SHOWN = 5


def write(path: str | os.PathLike[str], state: State) -> Path:
    """Write a state dict as one safetensors file, whole or not at all.

    Tensors that are the same memory under two names (tied weights) are written once; the other name goes into the
    file's metadata, as `safetensors.torch.save_model` does, and `read` restores it.

    Args:
        path: a file name that ends in .safetensors.
        state: name → tensor, any shapes and types.

    Raises:
        ThalwegError: the file name ends otherwise.

    Example:
        >>> import tempfile, torch
        >>> weight = torch.arange(6.0).reshape(2, 3)
        >>> path = write(tempfile.mkdtemp() + "/w.safetensors", {"embedding": weight, "head": weight})
        >>> sorted(read(path)), path.stat().st_size < 200  # 24 bytes of numbers, once
        (['embedding', 'head'], True)
    """
    from safetensors.torch import save

    target = Path(path)
    if target.suffix != ".safetensors":
        raise bad_input(
            "path", str(path), "a file name that ends in .safetensors", f"Write {target.with_suffix('.safetensors')}"
        )
    kept: dict[str, torch.Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name in sorted(state):
        tensor = state[name].detach()
        first = seen.setdefault(_memory(tensor), name) if tensor.numel() else name
        if first == name:
            # a copy of its own: safetensors refuses views into shared storage
            kept[name] = tensor.cpu().clone().contiguous()
        else:
            aliases[name] = first
    return write_atomically(target, save(kept, metadata={"format": "pt", **aliases}))


def read(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Read a state dict from a safetensors file, a `.pt` file (weights only, no code is run) or a Hugging Face folder.

    A folder holds `model.safetensors`, or shards with `model.safetensors.index.json`, or `pytorch_model.bin`. A `.pt`
    file may hold the state dict itself or nest it under "state_dict", "model_state_dict", "model", "module" or "weights".
    Prefixes that `DataParallel`, DDP and `torch.compile` put before every name are taken off.

    Raises:
        ThalwegError: no such file, not a checkpoint, or a `.pt` file that needs code to be read.
    """
    source = Path(path)
    if source.is_dir():
        return unwrapped(_read_folder(source))
    if not source.is_file():
        raise bad_input(
            "checkpoint", str(path), "a file or folder that exists", "Check the name and the working directory"
        )
    if source.suffix == ".safetensors":
        return unwrapped(_read_safetensors(source))
    return unwrapped(_read_pickled(source))


def unwrapped(state: State) -> dict[str, torch.Tensor]:
    """The state dict without `module.` and `_orig_mod.`, wherever one of them stands before every name.

    Example:
        >>> list(unwrapped({"module._orig_mod.a": 1, "module._orig_mod.b": 2}))
        ['a', 'b']
    """
    names = dict(state)
    while names and (prefix := next((p for p in _WRAPPERS if all(name.startswith(p) for name in names)), None)):
        names = {name.removeprefix(prefix): tensor for name, tensor in names.items()}
    return names


def load_into(model: nn.Module, state: State) -> None:
    """Copy a state dict into a model, exactly: every name and every shape has to match, else nothing is copied.

    Wrapper prefixes are taken off; so is, or is added, a leading `model.` when that alone makes the names match. A name
    that is missing because the model ties it to one that is there is no mismatch.

    Raises:
        ThalwegError: a checkpoint of another model; the missing, unexpected and wrongly shaped names are listed.

    Example:
        >>> from torch import nn
        >>> load_into(nn.Linear(2, 3), nn.Linear(2, 4).state_dict())
        Traceback (most recent call last):
        ...
        thalweg.outcomes.ThalwegError: checkpoint of another model than Linear: wrong shape for 2 of 2: weight (4, 2) instead of (3, 2), bias (4) instead of (3). Load it into the model that wrote it.
    """
    own = model.state_dict(keep_vars=True)
    given = _with_model_prefix_fixed(unwrapped(state), own)
    present = {id(own[name]) for name in given if name in own}  # tied weights are one object under several names
    missing = [name for name in own if name not in given and id(own[name]) not in present]
    unexpected = [name for name in given if name not in own]
    misshapen = [
        f"{name} {_shape(given[name])} instead of {_shape(own[name])}"
        for name in own
        if name in given and given[name].shape != own[name].shape
    ]
    findings = [
        f"{what} {len(names)} of {len(own)}: {_some(names)}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("wrong shape for", misshapen))
        if names
    ]
    if findings:
        raise ThalwegError(
            f"checkpoint of another model than {type(model).__name__}: {'; '.join(findings)}. "
            "Load it into the model that wrote it."
        )
    model.load_state_dict(dict(given), strict=False)  # all checked above, but for tied names, which may be missing


def _with_model_prefix_fixed(given: State, own: State) -> State:
    """Take off or put on `model.`, the name under which many trainers and Hugging Face hold the network."""
    if set(given) == set(own):
        return given
    for changed in (
        {name.removeprefix("model."): tensor for name, tensor in given.items()},
        {f"model.{name}": tensor for name, tensor in given.items()},
    ):
        if (
            len(changed) == len(given)
            and set(changed) <= set(own)
            and len(set(changed) & set(own)) > len(set(given) & set(own))
        ):
            return changed
    return given


def _read_folder(folder: Path) -> dict[str, torch.Tensor]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        state: dict[str, torch.Tensor] = {}
        for shard in shards:
            if not (folder / shard).is_file():
                raise bad_input(
                    "checkpoint",
                    str(folder),
                    f"every shard its index names, but {shard} is absent",
                    "Download it again",
                )
            state |= _read_safetensors(folder / shard)
        return state
    if (folder / "model.safetensors").is_file():
        return _read_safetensors(folder / "model.safetensors")
    if (folder / "pytorch_model.bin").is_file():
        return _read_pickled(folder / "pytorch_model.bin")
    raise bad_input(
        "checkpoint", str(folder), "a folder with model.safetensors, model.safetensors.index.json or pytorch_model.bin",
        "Name the file inside it",
    )  # fmt: skip


def _read_safetensors(file: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # not a mapping
            metadata = opened.metadata() or {}
    except SafetensorError as error:
        raise ThalwegError(f"{file}: not a safetensors file ({error}); was it copied whole?") from None
    return state | {alias: state[name] for alias, name in metadata.items() if name in state and alias not in state}


def _read_pickled(file: Path) -> dict[str, torch.Tensor]:
    import torch

    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        # torch's own message is a page on weights_only; the object it would not load is what a reader can act on
        refused = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it holds a {refused[1]}" if refused else "cut short, or another format"
        raise ThalwegError(
            f"{file}: not readable as weights only ({reason}). Save model.state_dict() alone, or as safetensors."
        ) from None
    for key in _NESTED:
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
            break
    if (
        not isinstance(loaded, dict)
        or not loaded
        or not all(isinstance(value, torch.Tensor) for value in loaded.values())
    ):
        raise ThalwegError(
            f"{file}: no state dict in it; expected name → tensor, at the top or under {', '.join(_NESTED)}."
        )
    return dict(loaded)


def _memory(tensor: torch.Tensor) -> tuple[Any, ...]:
    return (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tuple(tensor.stride()))


def _shape(tensor: torch.Tensor) -> str:
    return "(" + ", ".join(str(size) for size in tensor.shape) + ")"


def _some(names: list[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
