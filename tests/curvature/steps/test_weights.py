"""Where the ends of a step are kept and how the model sees θ(m): every mode gives the same bits, for less memory or an error."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import thalweg as tw
from tests.curvature.memory import parameter_bytes, peak_bytes
from tests.curvature.state import bits, everything
from tests.curvature.training import adamw, batches, cross_entropy, network, outcome_of_run, train
from thalweg.curvature import MEASURES, Step, capture, critical_sharpness
from thalweg.curvature.steps import weights as weights_module
from thalweg.curvature.steps.weights import InPlace, PerModule, _fingerprint
from thalweg.experiments.models import GPT, MLP
from thalweg.outcomes import Outcome, ThalwegError, ThalwegWarning

torch.set_num_threads(1)

MODES = {
    "in place": {},
    "in place, offloaded": {"offload": True},
    "per module": {"mode": "per_module"},
    "per module, offloaded": {"mode": "per_module", "offload": True},
}
OTHERS = [name for name in MODES if name != "in place"]


def mlp():
    return MLP((20, 64, 64, 10), activation="gelu", seed=0), torch.randn(32, 20), torch.randint(0, 10, (32,))


def cnn():
    layers = [nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.Conv2d(8, 16, 3, stride=2)]
    model = nn.Sequential(*layers, nn.BatchNorm2d(16), nn.GELU(), nn.Flatten(), nn.Linear(16 * 2 * 2, 10))
    return model, torch.randn(16, 1, 8, 8), torch.randint(0, 10, (16,))


def gpt():
    """Its head reads the weight of the embedding, which is another module's."""
    tokens = torch.randint(0, 64, (4, 17))
    model = GPT(64, length=16, width=32, layers=2, heads=2, dropout=0.1, seed=0)
    return model, tokens[:, :-1], tokens[:, 1:]


class Recurrent(nn.Module):
    """One operator reads all weights of a layer; one weight is made of two by a parametrization."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 8, num_layers=2, batch_first=True)
        self.head = nn.utils.parametrizations.weight_norm(nn.Linear(8, 3))

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


def recurrent():
    return Recurrent(), torch.randn(8, 5, 4), torch.randint(0, 3, (8,))


class Tied(nn.Module):
    """Three modules have one matrix: as the same parameter, and as another one in the same memory."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(6, 6) for _ in range(3))
        self.second.weight = self.first.weight
        self.third.weight = nn.Parameter(self.first.weight.detach(), requires_grad=False)

    def forward(self, x):
        return self.third(torch.tanh(self.second(torch.tanh(self.first(x)))))


def tied():
    return Tied(), torch.randn(12, 6), torch.randint(0, 6, (12,))


def strided():
    """A weight that is transposed in memory, and one within a larger tensor."""
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3))
    model[0].weight = nn.Parameter(torch.randn(6, 6).T)
    model[1].weight = nn.Parameter(torch.randn(5, 6)[1:4])
    return model, torch.randn(12, 6), torch.randint(0, 3, (12,))


MODELS = [mlp, cnn, gpt, recurrent, tied, strided]


def loss_of(model, x, y):
    logits = model(x)
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), y.reshape(-1))


def made_step(build, kind, options, steps=3):
    torch.manual_seed(0)
    model, x, y = build()
    optimizer = getattr(torch.optim, kind)(model.parameters(), lr=0.1 if kind == "SGD" else 3e-3)

    def closure():
        return loss_of(model, x, y)

    for _ in range(steps):
        optimizer.zero_grad()
        closure().backward()
        with capture(model, optimizer, closure, **options) as step:
            optimizer.step()
    return model, optimizer, step


def numbers(step):
    """f at some multiples, the margin, derivatives at θ_before, what other measures say, and what it all cost."""
    critical = critical_sharpness(step)
    rows = {name: MEASURES[name](step) for name in ("directional", "norms")}
    moved = [p for p in step.parameters if p.requires_grad]
    with step.at_start() as loss, torch.enable_grad():
        gradients = [bits(g) for g in torch.autograd.grad(loss(), moved)]
    f = [step.at(m) for m in (0.0, 0.3, 1.0, 2.5, 40.0)]
    return f, critical, rows, gradients, step.slope, step.forward_passes


@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
@pytest.mark.parametrize("build", MODELS, ids=lambda build: build.__name__)
def test_every_mode_gives_the_same_bits_and_changes_nothing(build, kind):
    expected = numbers(made_step(build, kind, {})[2])
    assert expected[1].outcome is Outcome.OK
    assert expected[0][0] == 0.0 and len(set(expected[0])) == 5
    for name in OTHERS:
        model, optimizer, step = made_step(build, kind, MODES[name])
        before = everything(model, optimizer)
        assert numbers(step) == expected, name
        assert everything(model, optimizer) == before, name


@pytest.mark.parametrize("name", OTHERS)
def test_a_probed_run_is_the_same_run_with_the_same_rows(name):
    """Dropout, BatchNorm, AdamW; every measure."""

    def run(**options):
        model = network()
        optimizer = adamw(model)
        with tw.probe(model, optimizer, every=5, measures=tuple(MEASURES), **options) as probe:
            losses = train(model, optimizer, probe.watch(batches(20)))
        rows = [{k: v for k, v in row.items() if k != "probe/seconds"} for row in probe.history.rows]
        return outcome_of_run(model, optimizer, losses), rows

    expected = run()
    assert [row["probe/outcome"] for row in expected[1]] == ["OK"] * 4
    assert run(**MODES[name]) == expected


@pytest.mark.parametrize("name", MODES)
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, torch.OutOfMemoryError])
def test_an_exception_at_any_evaluation_changes_nothing(name, error):
    """The first, the one with hidden weights, one of the search; the step still answers afterwards."""
    expected = critical_sharpness(made_step(cnn, "AdamW", {})[2])
    for fatal in (1, 2, 4):
        model, optimizer, step = made_step(cnn, "AdamW", MODES[name])
        before, calls, closure = everything(model, optimizer), itertools.count(1), step.closure

        def failing(closure=closure, calls=calls, fatal=fatal):
            loss = closure()
            if next(calls) == fatal:
                raise error("in the middle")
            return loss

        step.closure = failing
        with pytest.raises(error, match="in the middle"):
            critical_sharpness(step)
        assert everything(model, optimizer) == before
        step.closure = closure
        assert critical_sharpness(step).multiple == expected.multiple
        assert everything(model, optimizer) == before


def test_an_interrupt_while_hidden_weights_are_brought_back(monkeypatch):
    model, optimizer, step = made_step(mlp, "SGD", {"mode": "per_module"})
    before, point, calls = everything(model, optimizer), weights_module._point, itertools.count(1)

    def interrupted(parameters, values):
        if next(calls) == 2:
            point(list(parameters)[:2], list(values)[:2])
            raise KeyboardInterrupt
        point(parameters, values)

    monkeypatch.setattr(weights_module, "_point", interrupted)
    with pytest.raises(KeyboardInterrupt):
        step.obstacle()
    assert next(calls) == 4
    assert everything(model, optimizer) == before


def test_a_loss_with_a_gradient_inside():
    found = []
    for options in MODES.values():
        model, _, step = made_step(mlp, "SGD", options)
        plain = step.closure

        def penalised(model=model, plain=plain):
            loss = plain()
            gradients = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
            return loss + 0.1 * sum(gradient.square().sum() for gradient in gradients)

        step.closure = penalised
        found.append([step.at(m) for m in (0.3, 1.0, 40.0)])
    assert found == [found[0]] * 4
    assert found[0] != [made_step(mlp, "SGD", {})[2].at(m) for m in (0.3, 1.0, 40.0)]


@pytest.mark.parametrize("name", MODES)
def test_autocast_and_its_cache(name):
    """The cache of an open autocast holds casts of the weights after the step: f must still vary, by the same bits."""

    def run(options):
        torch.manual_seed(0)
        model = nn.Linear(8, 8)
        x = torch.randn(4, 8)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)

        def closure():
            return model(x).float().square().mean()

        with torch.autocast("cpu", dtype=torch.bfloat16):
            closure().backward()
            with capture(model, optimizer, closure, **options) as step:
                optimizer.step()
            torch.clear_autocast_cache()
            closure()
            return [step.at(m) for m in (0.0, 0.5, 1.0)]

    found = run(MODES[name])
    assert found == run({})
    assert found[0] == 0.0 > found[1] > found[2]


def wide():
    """16 MB a layer, four of them: what is made of some entries at a time does not count."""
    layers = [layer for _ in range(4) for layer in (nn.Linear(2048, 2048, bias=False), nn.ReLU())]
    return nn.Sequential(*layers), torch.randn(8, 2048), torch.randint(0, 2048, (8,))


MB = 2**20


def test_the_account_of_the_allocator():
    a = torch.ones(1000, 1000)
    most, total = peak_bytes(lambda: ((a + a) * 2).sum().item())
    assert 8_000_000 <= most < 8_000_100  # two matrices, and scalars
    assert total == 4e6


def test_memory_of_a_measured_step():
    """What the allocator gave out from before the step to the end of the search, against the closed forms."""
    torch.manual_seed(0)
    model, x, y = wide()
    whole, layer = parameter_bytes(model)
    assert (whole, layer) == (64 * MB, 16 * MB)
    with torch.no_grad():
        forward, _ = peak_bytes(lambda: loss_of(model, x, y))
    assert forward < MB
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def measured(options):
        optimizer.zero_grad()
        loss_of(model, x, y).backward()
        with capture(model, optimizer, lambda: loss_of(model, x, y), **options) as step:
            optimizer.step()
        for p in model.parameters():
            p.grad = None  # made inside: gradients count once in every mode
        return critical_sharpness(step).outcome

    gradients, _ = peak_bytes(lambda: loss_of(model, x, y).backward())
    optimizer.zero_grad()
    assert whole <= gradients < whole + layer
    most = {}
    for name in ("in place", "per module"):
        most[name], outcome = peak_bytes(lambda name=name: measured(MODES[name]))
        assert outcome is Outcome.OK
    # beside the gradients: two copies; one copy
    assert 3 * whole <= most["in place"] < 3 * whole + layer
    assert 2 * whole <= most["per module"] < 2 * whole + layer

    optimizer.zero_grad()
    loss_of(model, x, y).backward()
    with capture(model, optimizer, lambda: loss_of(model, x, y), mode="per_module") as step:
        optimizer.step()
    evaluation, _ = peak_bytes(lambda: critical_sharpness(step))
    assert layer <= evaluation < layer + 9 * MB  # the weights of one layer, and 2^18 entries in 64 bits, four times


class Fake:
    """Tensors on a CUDA device that does not have to be there: shapes and devices, no numbers."""

    def __enter__(self):
        self.mode = FakeTensorMode()
        self.mode.__enter__()
        return [nn.Parameter(torch.empty(8, 8, device="cuda")), nn.Parameter(torch.empty(8, device="cuda"))]

    def __exit__(self, *error):
        self.mode.__exit__(*error)


@pytest.mark.parametrize("kind", [InPlace, PerModule])
def test_offloaded_copies_are_on_the_cpu_and_meet_the_weights_on_their_device(kind, monkeypatch):
    empty_like, pinned = torch.empty_like, []

    def without_a_driver(tensor, *, device, pin_memory):
        pinned.append(pin_memory)
        return empty_like(tensor, device=device)

    monkeypatch.setattr(torch, "empty_like", without_a_driver)
    monkeypatch.setattr(weights_module, "_fingerprint", lambda tensor: 0)  # reads numbers
    with Fake() as parameters:
        ends = kind(nn.ParameterList(parameters), offload=True)
        ends.begin(parameters)
        ends.finish()
        assert {t.device.type for t in ends.before} == {"cpu"}
        assert {t.device.type for t in ends.after} == {"cpu" if kind is InPlace else "cuda"}
        assert {t.device.type for pair in ends.pairs() for t in pair} == {"cuda"}
        if kind is PerModule:
            assert {ends._mixed(i, m).device.type for i in (0, 1) for m in (0.0, 0.5)} == {"cuda"}
    assert pinned == [True] * (4 if kind is InPlace else 2)


# What is refused, in one line that names the way out.


def compiled(model):
    return torch.compile(model, backend="eager")


def compiled_inside(model):
    model[0].compile(backend="eager")
    return model


@pytest.mark.parametrize("wrap", [compiled, compiled_inside])
def test_compiled_models_are_refused(wrap):
    model = network()
    optimizer = adamw(model)
    with pytest.raises(ThalwegError, match=r"mode: got 'per_module', .* not a compiled one\. Write mode=\"in_place\""):
        tw.probe(wrap(model), optimizer, mode="per_module")
    torch._dynamo.reset()


def test_compiled_code_that_the_model_does_not_show_runs_eagerly_and_stays_compiled():
    """A dispatch mode makes torch.compile give up on a function for good: training would go on uncompiled."""
    ran = []

    def counting(module, inputs):
        return lambda *args: ran.append(torch.is_grad_enabled()) or module(*args)

    torch._dynamo.reset()
    model = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 3))
    fast, (batch,) = torch.compile(model, backend=counting), batches(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        cross_entropy(fast, batch).backward()
        with capture(model, optimizer, lambda: cross_entropy(fast, batch), mode="per_module") as step:
            optimizer.step()
        value = step.at(3.0)
        assert ran == [True]  # the training forward alone
        ran.clear()
        step.closure = lambda: cross_entropy(model, batch)
        assert step.at(3.0) == value
    torch._dynamo.reset()


class Sharded(nn.Parameter):
    """To whoever asks, a DTensor."""

    def to_local(self):
        return self


def test_sharded_parameters_are_refused():
    model = nn.Linear(2, 2)
    model.weight = Sharded(torch.ones(2, 2))
    with pytest.raises(ThalwegError, match=r"mode: got 'per_module', expected whole parameters.*FSDP2.*offload=True"):
        tw.probe(model, adamw(model), mode="per_module")


def raw_bias(model, batch):
    """`tolist` reads memory without asking torch's dispatcher."""
    return cross_entropy(model, batch) + torch.tensor(model[4].bias.tolist()).square().sum()


def raw_but_idle(model, batch):
    """The same read, but nothing comes of it."""
    return cross_entropy(model, batch) + 0 * len(model[4].bias.tolist())


def clamping(model, batch):
    model[4].weight.data.clamp_(-0.05, 0.05)
    return cross_entropy(model, batch)


def renorming(model, batch):
    return cross_entropy(model, batch) + F.embedding(torch.tensor([0]), model[4].weight, max_norm=0.3).sum()


def earlier_view(model, batch):
    return cross_entropy(model, batch) + (model.view * torch.arange(16.0)[:, None]).sum()


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (raw_bias, "by torch's operators"),
        (clamping, r"only reads its weights \(aten\.clamp_\.default writes to one\)"),
        (renorming, r"only reads its weights \(aten\.embedding_renorm_\.default writes to one\)"),
        (earlier_view, r"read as they are \(a view of shape \(16, 3\) was made of one earlier\)"),
    ],
)
def test_a_loss_that_would_be_wrong_is_refused_and_nothing_is_changed(loss, message):
    model = network().double()
    model.view = model[4].weight.detach().T
    optimizer = adamw(model)
    ((x, y),) = batches(1)
    batch = x.double(), y
    cross_entropy(model, batch).backward()
    with capture(model, optimizer, lambda: loss(model, batch), mode="per_module") as step:
        optimizer.step()
    before = everything(model, optimizer)
    for ask in (critical_sharpness, lambda step: step.at(1.0)):
        with pytest.raises(
            ThalwegError, match=rf"^mode: got 'per_module', expected .*{message}.*Write mode="
        ) as raised:
            ask(step)
        assert "\n" not in str(raised.value)
        assert everything(model, optimizer) == before


def test_a_read_that_does_not_matter_is_not_refused():
    model = network()
    optimizer = adamw(model)
    with tw.probe(model, optimizer, every=1, mode="per_module", loss_fn=raw_but_idle) as probe:
        train(model, optimizer, probe.watch(batches(2)))
    assert [row["probe/outcome"] for row in probe.history.rows] == ["OK", "OK"]


def test_noise_is_still_told_from_a_missed_read():
    model = network()
    optimizer = adamw(model)
    own, (batch,) = torch.Generator().manual_seed(0), batches(1)

    def noisy():
        return cross_entropy(model, batch) + torch.rand((), generator=own)

    with tw.probe(model, optimizer, every=1, mode="per_module", closure=noisy) as probe:
        train(model, optimizer, [batch])
    assert probe.history.rows[0]["probe/outcome"] == "NOT_DETERMINISTIC"


def test_a_probe_goes_on_where_a_loss_is_refused():
    model = network()
    optimizer = adamw(model)
    with (
        pytest.warns(ThalwegWarning, match=r"critical: ThalwegError: mode: got 'per_module'"),
        tw.probe(model, optimizer, every=1, mode="per_module", loss_fn=raw_bias) as probe,
    ):
        train(model, optimizer, probe.watch(batches(2)))
    assert [row["probe/outcome"] for row in probe.history.rows] == ["FAILED", "FAILED"]


def test_weights_that_have_moved_on_are_refused():
    model, optimizer, step = made_step(mlp, "SGD", {"mode": "per_module"})
    value = step.at(0.5)
    optimizer.zero_grad()
    step.closure().backward()
    optimizer.step()
    before = everything(model, optimizer)
    with pytest.raises(ThalwegError, match="moved since the step"):
        step.at(0.5)
    assert everything(model, optimizer) == before
    again, *_ = made_step(mlp, "SGD", {})
    model.load_state_dict(again.state_dict())
    assert step.at(0.5) == value


def test_an_unknown_mode():
    model = network()
    with pytest.raises(ThalwegError, match="mode: got 'on_disk', expected one of in_place, per_module"):
        tw.probe(model, adamw(model), mode="on_disk")
    with pytest.raises(ThalwegError, match="mode: got 'on_disk'"), capture(model, adamw(model), list, mode="on_disk"):
        pass


@pytest.mark.parametrize("name", MODES)
def test_between_two_sets_of_weights(name):
    """From state dicts, with the live weights elsewhere; without copies where reads are mixed."""
    model, x, y = mlp()
    torch.manual_seed(1)
    before = {key: p + 0.1 * torch.randn_like(p) for key, p in model.state_dict().items()}
    after = {key: p + 0.1 * torch.randn_like(p) for key, p in model.state_dict().items()}
    kept = everything(model)

    def f(options):
        step = Step.between(before, after, model, lambda: loss_of(model, x, y), lr=0.1, **options)
        return [step.at(m) for m in (0.0, 0.4, 1.0, 3.0)], step

    expected, _ = f({})
    found, step = f(MODES[name])
    assert found == expected
    assert everything(model) == kept
    given = {t.data_ptr() for t in [*before.values(), *after.values()]}
    ours = {t.data_ptr() for t in [*step._ends.before, *step._ends.after]}
    assert (ours == given) == (MODES[name].get("mode") == "per_module")
    assert not (ours & given) or ours == given
    if ours == given:
        before["0.weight"][0, 0] += 1.0
        with pytest.raises(ThalwegError, match="moved since the step"):
            step.at(0.4)


@pytest.mark.parametrize("live", ["before", "after"])
@pytest.mark.parametrize("name", MODES)
def test_between_the_live_weights_and_others(name, live):
    """One end is the state dict of the model: the same memory."""
    model, x, y = mlp()
    torch.manual_seed(1)
    other = {key: p + 0.1 * torch.randn_like(p) for key, p in model.state_dict().items()}
    ends = (model.state_dict(), other) if live == "before" else (other, model.state_dict())
    kept = everything(model)

    def f(options):
        step = Step.between(*ends, model, lambda: loss_of(model, x, y), lr=0.1, **options)
        return [step.at(m) for m in (0.0, 0.4, 1.0, 3.0)]

    assert f(MODES[name]) == f({})
    assert everything(model) == kept


some = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5, 1e-40, float("inf"), float("nan")])


@given(st.integers(1, 6).flatmap(lambda n: st.tuples(*[st.lists(some, min_size=n, max_size=n)] * 2)))
def test_a_fingerprint_is_of_bits_and_places(entries):
    first, second = map(torch.tensor, entries)
    assert (_fingerprint(first) == _fingerprint(second)) == (bits(first)[2] == bits(second)[2])


def test_a_fingerprint_sees_every_chunk(monkeypatch):
    monkeypatch.setattr(weights_module, "_CHUNK", 4)
    tensor = torch.arange(11.0)
    seen = {_fingerprint(tensor)}
    for i in range(11):
        other = tensor.clone()
        other[i] += 1e-6 if i == 0 else i * 1.2e-7
        seen.add(_fingerprint(other))
    seen.add(_fingerprint(tensor.roll(4)))
    assert len(seen) == 13
    assert _fingerprint(torch.empty(0)) == _fingerprint(torch.empty(0))


def test_state_of_a_probe_does_not_know_the_mode():
    """A run may go on in another mode: the rows continue."""
    model = network()
    optimizer = adamw(model)
    loader = list(batches(4))
    with tw.probe(model, optimizer, every=1, mode="per_module") as probe:
        train(model, optimizer, probe.watch(loader[:2]))
    state = json.loads(json.dumps(probe.state_dict()))
    again = tw.probe(model, optimizer, every=1, offload=True)
    again.load_state_dict(state)
    with again:
        train(model, optimizer, again.watch(loader[2:]))
    assert [row["step"] for row in again.history.rows] == [1, 2, 3, 4]
