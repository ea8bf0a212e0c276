"""How much memory a computation takes, by the account of torch's own allocator."""

from __future__ import annotations

from torch.profiler import ProfilerActivity, profile


def peak_bytes(compute):
    """Most bytes that were allocated at a time while it ran, beyond those from before; and what it gave.

    The profiler hears every allocation and every release of the CPU allocator: temporaries inside operators too.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as heard:
        given = compute()
    events = heard.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most, given


def parameter_bytes(model):
    sizes = [p.numel() * p.element_size() for p in model.parameters()]
    return sum(sizes), max(sizes)
