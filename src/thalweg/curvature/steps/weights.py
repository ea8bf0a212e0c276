"""The two ends of a step, and how a model comes to see the weights θ(m) on the line through them.

θ(m) = lerp(θ_before, θ_after, m), exact at 0 and at 1. The only file that writes to weights.
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from thalweg.curvature.steps.distributed import is_sharded, local, reshard
from thalweg.curvature.steps.reading import MixedReads, refused
from thalweg.curvature.steps.untouched import eagerly, untouched
from thalweg.outcomes import ThalwegError, bad_input

__all__ = ["Ends", "InPlace", "Mode", "PerModule", "check_mode", "chunks", "ends_of", "restored"]

Mode = Literal["in_place", "per_module"]

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_CHUNK = 2**18  # entries that are worked on at a time: what is made of them does not count beside a layer
_ODD = 0x1E3779B97F4A7C15  # of a multiplicative hash


class Ends(abc.ABC):
    """θ_before and θ_after of the parameters that a step may have moved; of this rank's shards under FSDP2.

    Attributes:
        parameters: the live tensors.
        before, after: one tensor each for every parameter, where they are kept; `pairs` gives them on its device.
        apart: whether the model is meant to see θ(m) without reading the live weights, so that `hidden` can prove it.
    """

    apart = False

    def __init__(self, model: nn.Module, *, offload: bool = False) -> None:
        self.parameters: list[Tensor] = []
        self.before: list[Tensor] = []
        self.after: list[Tensor] = []
        self._model = model
        self._offload = offload

    def begin(self, parameters: Sequence[Tensor]) -> None:
        """Keep the weights as they are before the optimizer moves them."""
        self.parameters = list(parameters)
        self.before = [self._copy(local(p)) for p in self.parameters]

    @abc.abstractmethod
    def finish(self) -> None:
        """Keep the weights as they are after it."""

    def give(self, parameters: Sequence[Tensor], before: Sequence[Tensor], after: Sequence[Tensor]) -> None:
        """Both ends from outside, in the shapes of the parameters."""
        self.parameters = list(parameters)
        self.before, self.after = (
            [self._given(t.detach().to(p.dtype if self._offload else p)) for t, p in zip(end, parameters, strict=True)]
            for end in (before, after)
        )

    @abc.abstractmethod
    def at(self, multiple: float) -> AbstractContextManager[None]:
        """The model sees θ(m) while the block lasts; afterwards the live weights have the bits they had before it."""

    @contextlib.contextmanager
    def hidden(self) -> Iterator[None]:
        """Nobody who looks past `at` sees the live weights while the block lasts; of no use where `at` writes to them."""
        yield

    def pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """θ_before and θ_after of one parameter after the other, on its device."""
        for parameter, before, after in zip(self.parameters, self.before, self.after, strict=True):
            yield before.to(parameter.device), after.to(parameter.device)

    @abc.abstractmethod
    def _given(self, tensor: Tensor) -> Tensor:
        """How a tensor from outside is kept."""

    def _copy(self, tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        if not self._offload:
            return tensor.clone()
        return torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda).copy_(tensor)

    def _forget_casts(self) -> None:
        """Drop copies that were made of the weights as they were: 16-bit ones of autocast, gathered ones of FSDP2."""
        torch.clear_autocast_cache()
        reshard(self._model, self.parameters)


class InPlace(Ends):
    """Copies of both ends; θ(m) is written into the live weights, which are brought back bit for bit.

    Memory: twice the parameters. With `offload` the copies are on the CPU (pinned where the weights are on CUDA), and two
    of the largest tensor at a time are on the device.

    Example:
        >>> x = nn.Parameter(torch.tensor([3.0]))
        >>> ends = InPlace(nn.ParameterList([x]))
        >>> ends.give([x], [torch.tensor([1.0])], [torch.tensor([2.0])])
        >>> with ends.at(0.5):
        ...     x.item()
        1.5
        >>> x.item()
        3.0
    """

    def finish(self) -> None:
        """A second copy."""
        self.after = [self._copy(local(p)) for p in self.parameters]

    @contextlib.contextmanager
    def at(self, multiple: float) -> Iterator[None]:
        """Write, and write back."""
        live, home = [local(p) for p in self.parameters], self.after
        if not all(_same_bits(p, a.to(p.device)) for p, a in zip(live, home, strict=False)):
            home = [self._copy(p) for p in live]  # training has gone on, or the step was given from outside

        def go_home() -> None:
            try:
                _write(live, home)
            finally:
                self._forget_casts()

        with _afterwards(go_home):
            with torch.no_grad():
                for parameter, (before, after) in zip(live, self.pairs(), strict=False):
                    torch.lerp(before, after, multiple, out=parameter)
            self._forget_casts()
            yield

    def _given(self, tensor: Tensor) -> Tensor:
        return self._copy(tensor)


class PerModule(Ends):
    """A copy of θ_before alone; θ(m) is mixed for each operator that reads a weight, and the live weights are θ_after.

    Nothing is written to the live weights, so there is nothing to bring back. Memory: once the parameters and the weights
    of the largest layer; with `offload` the copy is on the CPU (pinned where the weights are on CUDA), and only the weights of
    the layer that runs are mixed on the device. Every read of a weight costs its size in memory traffic.

    Raises:
        ThalwegError: sharded parameters, a compiled model; later, a loss that writes to weights, and live weights that have
            moved on since the step.

    Example:
        >>> x = nn.Parameter(torch.tensor([1.0]))
        >>> ends = PerModule(nn.ParameterList([x]))
        >>> ends.begin([x])
        >>> with torch.no_grad():
        ...     x += 1.0
        >>> ends.finish()
        >>> with ends.at(0.5):
        ...     y = 2 * x
        >>> y.item(), x.item()
        (3.0, 2.0)
    """

    apart = True

    def __init__(self, model: nn.Module, *, offload: bool = False) -> None:
        super().__init__(model, offload=offload)
        self._memory: list[Tensor] = []  # of the live weights, whatever they point to
        self._addresses: set[int] = set()  # where it is
        self._lent: list[Tensor] = []  # not our own: somebody may write to them
        self._prints: list[int] = []

    def finish(self) -> None:
        """The live weights are θ_after as long as nobody moves them."""
        self.after = [p.detach() for p in self.parameters]
        self._watch(self.after)

    def give(self, parameters: Sequence[Tensor], before: Sequence[Tensor], after: Sequence[Tensor]) -> None:
        """Both as they are, without a copy where dtype and device allow it."""
        super().give(parameters, before, after)
        self._watch([*self.before, *self.after])

    @contextlib.contextmanager
    def at(self, multiple: float) -> Iterator[None]:
        """Mix at every read."""
        if self._prints != [_fingerprint(t) for t in self._lent]:
            raise ThalwegError(
                "mode: got weights that have moved since the step, expected them as it left them: per_module keeps no copy. "
                'Measure before the next step, or write mode="in_place".'
            )

        def mixed(i: int) -> Tensor:
            return self._mixed(i, multiple)

        self._forget_casts()
        try:
            # Eagerly: under a dispatch mode torch.compile would give up on what it meets for good.
            with eagerly(), MixedReads(self.parameters, self._memory, mixed):
                yield
        finally:
            self._forget_casts()

    @contextlib.contextmanager
    def hidden(self) -> Iterator[None]:
        """Live tensors point to NaN: a loss that does not change has read no weight past `at` that matters to it."""
        with _afterwards(lambda: _point(self.parameters, self._memory)):
            _point(self.parameters, _nothing_like(self._memory))
            yield

    def _given(self, tensor: Tensor) -> Tensor:
        return tensor

    def _mixed(self, i: int, multiple: float) -> Tensor:
        device, before, after = self.parameters[i].device, self.before[i], self.after[i]
        start = before.to(device)
        if multiple == 0:
            # Where the live weights were given as this end, a view of it could not be told from one of theirs.
            return start.clone() if start.untyped_storage().data_ptr() in self._addresses else start
        if start is not before:
            return torch.lerp(start, after.to(device), multiple, out=start)
        return torch.lerp(start, after.to(device), multiple)

    def _watch(self, lent: list[Tensor]) -> None:
        """Remember where the live weights are, and what is in tensors that others may write to."""
        self._memory = [p.detach() for p in self.parameters]
        self._addresses = {m.untyped_storage().data_ptr() for m in self._memory if m.numel()}
        self._lent, self._prints = lent, [_fingerprint(t) for t in lent]


def check_mode(mode: Mode, model: nn.Module) -> None:
    """Refuse a mode that is not one, or that this model cannot be measured in.

    Raises:
        ThalwegError: an unknown mode; "per_module" with parameters that are sharded, or with a compiled model, whose kernels
            read weights past torch's dispatcher.

    Example:
        >>> check_mode("per_module", nn.Linear(1, 1))
    """
    if mode not in get_args(Mode):
        raise bad_input("mode", mode, "one of " + ", ".join(get_args(Mode)), 'Write mode="in_place"')
    if mode == "in_place":
        return
    if any(is_sharded(p) for p in model.parameters()):
        raise refused("whole parameters, not sharded ones (FSDP2)")
    if any(m._compiled_call_impl is not None or hasattr(m, "_orig_mod") for m in model.modules()):
        raise refused("a model that runs operator by operator, not a compiled one")


def ends_of(mode: Mode, model: nn.Module, *, offload: bool) -> Ends:
    """The ends of a step in a mode, empty.

    Raises:
        ThalwegError: as `check_mode`.
    """
    check_mode(mode, model)
    return (InPlace if mode == "in_place" else PerModule)(model, offload=offload)


@contextlib.contextmanager
def restored(model: nn.Module) -> Iterator[Callable[[], None]]:
    """Weights, and all that `untouched` looks after, come back bit for bit when the block ends, however it ends.

    For trainings that are thrown away. Memory: one copy of the weights and buffers. Gradients must be gone at the end.

    Args:
        model: whole, not sharded.

    Yields:
        To be called whenever weights were written.

    Example:
        >>> model = nn.Linear(1, 1)
        >>> kept = model.weight.item()
        >>> with restored(model) as written:
        ...     _ = nn.init.zeros_(model.weight)
        ...     written()
        >>> model.weight.item() == kept
        True
    """
    live = list(model.parameters())
    home = [p.detach().clone() for p in live]

    def go_home() -> None:
        try:
            _write(live, home)
        finally:
            torch.clear_autocast_cache()

    with _afterwards(go_home), untouched(model):
        yield torch.clear_autocast_cache


def chunks(tensor: Tensor) -> tuple[Tensor, ...]:
    """The entries of a tensor, (n,), some at a time."""
    return torch.split(tensor.detach().reshape(-1), _CHUNK)


@contextlib.contextmanager
def _afterwards(restore: Callable[[], None]) -> Iterator[None]:
    """Call it when the block ends, however it ends; again where an interrupt comes in between."""
    try:
        yield
    finally:
        try:
            restore()
        except KeyboardInterrupt:  # between two tensors: a run that stops here must not save half a step
            restore()
            raise


def _write(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)


def _point(parameters: Iterable[Tensor], values: Iterable[Tensor]) -> None:
    """Let tensors have other memory; what they had stays as it is."""
    for parameter, value in zip(parameters, values, strict=True):
        parameter.data = value


def _nothing_like(tensors: Sequence[Tensor]) -> list[Tensor]:
    """NaN in the shapes and strides of tensors, all in the memory of the largest."""
    made: dict[tuple[torch.dtype, torch.device], Tensor] = {}
    for t in sorted(tensors, key=_extent, reverse=True):
        if (t.dtype, t.device) not in made:
            made[t.dtype, t.device] = torch.full((_extent(t),), torch.nan, dtype=t.dtype, device=t.device)
    return [made[t.dtype, t.device].as_strided(t.shape, t.stride()) for t in tensors]


def _extent(tensor: Tensor) -> int:
    """Entries from the first to the last in memory [count]."""
    return 1 + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True) if n > 0)


def _same_bits(a: Tensor, b: Tensor) -> bool:
    bits = _BITS[a.element_size()]  # NaN equals itself, 0 does not equal -0
    return torch.equal(a.detach().view(bits), b.view(bits))


def _fingerprint(tensor: Tensor) -> int:
    """A number that changes when an entry does: a hash of the bits and their places."""
    places = (2 * torch.arange(min(tensor.numel(), _CHUNK), device=tensor.device) + 1) * _ODD
    places ^= places >> 31
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for chunk in chunks(tensor):
        bits = chunk.view(_BITS[chunk.element_size()])
        total = 31 * total + (bits * places[: len(chunk)]).sum()
    return int(total)
