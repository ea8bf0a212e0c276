"""One measurement on many ranks: losses averaged before anything is compared, so that every rank takes the same branch.

Nothing happens here while `torch.distributed` is not initialised, or has one rank. Weights may be replicated (DDP) or
sharded (FSDP2, `fully_shard`); ranks count equally. Every rank must make the same probe and measure the same steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from thalweg.outcomes import ThalwegError, bad_input

__all__ = [
    "averaged",
    "everywhere",
    "gathered",
    "is_first",
    "is_sharded",
    "local",
    "ranks",
    "refuse_sharded",
    "replicas",
    "reshard",
    "unwrap_model",
]

T = TypeVar("T")


def ranks() -> int:
    """How many processes train together [count]; 1 without `torch.distributed`.

    Example:
        >>> ranks()
        1
    """
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this is the rank that writes logs."""
    return ranks() == 1 or dist.get_rank() == 0


def gathered(value: T) -> list[T]:
    """The small Python value of every rank, in the order of the ranks: the same list on all of them, to the bit.

    Example:
        >>> gathered(0.5)
        [0.5]
    """
    if ranks() == 1:
        return [value]
    values: list[Any] = [None] * ranks()
    dist.all_gather_object(values, value)
    return values


def everywhere(compute: Callable[[], T]) -> list[T]:
    """Run something on every rank and give the values of all. Where it raises on one rank, it raises on all.

    Raises:
        RuntimeError: another rank raised; the message names it. An error of this rank is raised as it is.

    Example:
        >>> everywhere(lambda: 0.5)
        [0.5]
    """
    if ranks() == 1:
        return [compute()]
    mine: Exception | None = None
    value: T | None = None
    try:
        value = compute()
    except Exception as error:
        mine = error
    found = gathered((value, None if mine is None else f"{type(mine).__name__}: {mine}"))
    if mine is not None:
        raise mine
    for rank, (_, message) in enumerate(found):
        if message is not None:
            raise RuntimeError(f"rank {rank} raised {message}")
    return [given for given, _ in found]  # type: ignore[misc]  # no rank raised: every value is one


def averaged(compute: Callable[[], Tensor]) -> Tensor:
    """The mean over the ranks of what each computes, the same bits on all of them; an error of one is an error of all.

    Reduced to the first rank and sent from there: an iteration that stops on a comparison stops everywhere at once.

    Example:
        >>> averaged(lambda: torch.tensor([0.5])).tolist()
        [0.5]
    """
    if ranks() == 1:
        return compute()
    kept: list[Tensor] = []
    everywhere(lambda: kept.append(compute().detach().clone()))
    dist.reduce(kept[0], dst=0)
    dist.broadcast(kept[0], src=0)
    return kept[0] / ranks()


def is_sharded(tensor: Tensor) -> bool:
    """Whether each rank holds only a part (a DTensor, as FSDP2 makes them)."""
    return hasattr(tensor, "to_local")  # asked by name: importing DTensor takes long where nobody has one


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor, in the same memory; the tensor itself where it is not sharded."""
    if not is_sharded(tensor):
        return tensor
    with torch.no_grad():  # otherwise a differentiable copy
        part: Tensor = tensor.to_local()  # type: ignore[attr-defined]
    return part


def replicas(tensor: Tensor) -> int:
    """How many ranks hold each entry [count]: all of them under DDP, one under FSDP2, in between on a hybrid mesh."""
    if not is_sharded(tensor):
        return ranks()
    sizes, placements = tensor.device_mesh.shape, tensor.placements  # type: ignore[attr-defined]
    parts = 1
    for size, placement in zip(sizes, placements, strict=True):
        parts *= size if placement.is_shard() else 1
    return ranks() // parts


def reshard(model: nn.Module, parameters: Iterable[Tensor]) -> None:
    """Drop the full weights that FSDP2 has gathered from the shards as they were, after a write to the shards.

    FSDP2 keeps the root's weights gathered after a forward: without this the next forward silently uses the old ones.
    """
    if any(is_sharded(parameter) for parameter in parameters):
        from torch.distributed.fsdp import FSDPModule

        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def refuse_sharded(what: str, parameters: Iterable[Tensor]) -> None:
    """Say that something has no meaning where each rank holds only a part of the weights.

    Raises:
        ThalwegError: a parameter is sharded.
    """
    if any(is_sharded(parameter) for parameter in parameters):
        raise ThalwegError(
            f"{what}: got sharded parameters (FSDP2), expected whole ones: second derivatives cannot pass FSDP's hooks. "
            'Write measures=("critical",), or measure a checkpoint on one process.'
        )


def unwrap_model(model: nn.Module) -> nn.Module:
    """The module inside DistributedDataParallel, whose forward needs no other rank; any other module as it is.

    Raises:
        ThalwegError: a module of FSDP1, whose flat parameters belong to no layer.

    Example:
        >>> model = nn.Linear(1, 1)
        >>> unwrap_model(model) is model
        True
    """
    if any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()):
        raise bad_input("model", "FullyShardedDataParallel (FSDP1)", "DDP or FSDP2", "Shard with fully_shard(model)")
    if isinstance(model, nn.parallel.DistributedDataParallel):
        inner: nn.Module = model.module
        return inner
    return model
