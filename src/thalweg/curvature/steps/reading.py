"""Weights mixed where they are read: an operator that reads a weight is given θ(m) in its place, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

from thalweg.outcomes import ThalwegError, bad_input

__all__ = ["MixedReads", "refused"]


def refused(expected: str) -> ThalwegError:
    """Why a model or a loss cannot be measured by mixed reads, in one line.

    Example:
        >>> print(refused("whole parameters"))
        mode: got 'per_module', expected whole parameters. Write mode="in_place", with offload=True where memory is short.
    """
    return bad_input("mode", "per_module", expected, 'Write mode="in_place", with offload=True where memory is short')


class MixedReads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While the block lasts, `mixed(i)` stands for weight i in every operator that torch dispatches in this thread.

    It works below autograd and below modules. So it does not matter which module a weight belongs to: a tied weight, a
    parametrized one and one that another module reads by a function of its own are all seen, and derivatives are those
    at θ(m), with respect to the weight itself. The mix lives as long as the operator and the views that it returns; mixes of
    one operator are there together.

    What does not pass torch's dispatcher is not seen: compiled code, kernels that take raw pointers, `tolist()`.

    Args:
        weights: the tensors whose reads are replaced.
        memory: for each the tensor that holds it, itself or what it points to in ordinary times: other tensors in that memory
            are taken for it.
        mixed: index of a weight → the tensor to read instead, of the same shape and strides.

    Raises:
        ThalwegError: an operator writes to a weight, or reads a view of one that was made before the block.

    Example:
        The head reads the weight of the embedding past every module: it is seen all the same.

        >>> embedding = torch.nn.Embedding(2, 1, _weight=torch.ones(2, 1))
        >>> weights = [embedding.weight]
        >>> with MixedReads(weights, weights, lambda i: torch.full((2, 1), 3.0)):
        ...     out = embedding(torch.tensor([0])) @ embedding.weight.T
        >>> out.tolist(), embedding.weight.tolist()
        ([[9.0, 9.0]], [[1.0], [1.0]])
    """

    # Of flex_attention, for example, the weights it is given are mixed; those that its score function looks up are not seen.
    supports_higher_order_operators = True

    def __init__(self, weights: Sequence[Tensor], memory: Sequence[Tensor], mixed: Callable[[int], Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._memory = memory
        self._mixed = mixed
        self._objects = {id(weight): i for i, weight in enumerate(weights)}
        self._addresses = {_address(tensor): i for i, tensor in enumerate(memory) if tensor.numel()}
        self._mixes = WeakIdKeyDictionary()  # the storages of those that live

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "_schema", None) is not None and func._schema.is_mutable:  # those of higher order have none
            self._refuse_writes(func, args, kwargs)
        args, kwargs = tree_map_only(Tensor, self._read, (args, kwargs))
        return func(*args, **kwargs)

    def _read(self, tensor: Tensor) -> Tensor:
        i = self._which(tensor)
        if i is None:
            return tensor
        if id(tensor) not in self._objects and _layout(tensor) != _layout(self._memory[i]):
            shape = tuple(tensor.shape)
            raise refused(f"weights that are read as they are (a view of shape {shape} was made of one earlier)")
        mix = self._mixed(i)
        self._mixes[mix.untyped_storage()] = i
        return mix

    def _which(self, tensor: Tensor) -> int | None:
        """The weight that a tensor is, or whose memory it shares."""
        i = self._objects.get(id(tensor))
        if i is None and tensor.layout is torch.strided and tensor.numel():
            return self._addresses.get(_address(tensor))
        return i

    def _is_weight(self, tensor: Tensor) -> bool:
        """Whether a tensor is a weight or shares memory with one or with a mix: `detach()` and `.data` give the mix."""
        return self._which(tensor) is not None or (
            tensor.layout is torch.strided and tensor.untyped_storage() in self._mixes
        )

    def _refuse_writes(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for k, argument in enumerate(func._schema.arguments):
            value = args[k] if k < len(args) else kwargs.get(argument.name)
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            values = value if isinstance(value, list | tuple) else [value]
            if any(isinstance(tensor, Tensor) and self._is_weight(tensor) for tensor in values):
                raise refused(f"a loss that only reads its weights ({func} writes to one)")


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return tuple(tensor.shape), tensor.stride(), tensor.storage_offset()
