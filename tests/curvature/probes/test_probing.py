from __future__ import annotations

import copy
import math

import pytest
import torch

import thalweg as tw
from tests.curvature.state import bits, random_state
from tests.curvature.training import adamw, batches, cross_entropy, network, outcome_of_run, train
from thalweg.curvature import MEASURES, Step
from thalweg.curvature.steps.untouched import RandomState
from thalweg.outcomes import ThalwegError, ThalwegWarning

torch.set_num_threads(1)


def test_a_watched_loader_has_its_length_and_another_epoch():
    model = network()
    optimizer = adamw(model)
    with tw.probe(model, optimizer, every=1) as probe:
        loader = probe.watch(list(batches(3)))
        assert len(loader) == 3
        for _ in range(2):
            train(model, optimizer, loader)
        train(model, optimizer, probe.watch(batches(1)))  # a generator has no length, and needs none
    assert [row["step"] for row in probe.history.rows] == list(range(1, 8))


def test_layers_thawed_between_measurements():
    """The warm start of the last measurement has another size: it is not used."""
    model = network()
    model[0].requires_grad_(False)
    optimizer = adamw(model)
    with tw.probe(model, optimizer, every=1, measures=("hessian", "preconditioned")) as probe:
        train(model, optimizer, probe.watch(batches(2)))
        model[0].requires_grad_(True)
        train(model, optimizer, probe.watch(batches(2)))
    assert [row["probe/outcome"] for row in probe.history.rows] == ["OK"] * 4
    sharpness = [row["sharpness/hessian"] for row in probe.history.rows]
    assert sharpness[2] > sharpness[1]


def test_a_step_without_gradients():
    model = network()
    optimizer = adamw(model)
    batch = next(batches(1))
    with tw.probe(
        model, optimizer, every=1, measures=("critical", "preconditioned"), closure=lambda: cross_entropy(model, batch)
    ) as probe:
        optimizer.step()
    assert probe.history.rows[0]["probe/outcome"] == "NO_UPDATE"


def test_only_measured_steps_cost(monkeypatch):
    """No copy of the weights, no random state and no batch is kept before the step that is measured."""
    began, states = [], []
    begin, now = Step.begin, RandomState.now
    monkeypatch.setattr(Step, "begin", lambda step: began.append(1) or begin(step))
    monkeypatch.setattr(RandomState, "now", lambda: states.append(1) or now())
    model = network()
    optimizer = adamw(model)
    with tw.probe(model, optimizer, every=50) as probe:
        train(model, optimizer, probe.watch(batches(49)))
        assert (began, states, probe._source._batches) == ([], [], [])
        train(model, optimizer, probe.watch(batches(1)))
    assert (len(began), len(probe.history.rows)) == (1, 1)
    assert states


def test_resume_continues_the_history():
    """Saved after 20 of 40 steps, 30 measured and lost, loaded: the rows are those of a run that never stopped."""

    def run(resume):
        model = network()
        optimizer = adamw(model)
        probe = tw.probe(model, optimizer, every=10).attach()
        loader = list(batches(40))
        train(model, optimizer, probe.watch(loader[:20]))
        if resume:
            saved = copy.deepcopy(
                (model.state_dict(), optimizer.state_dict(), probe.state_dict(), torch.get_rng_state())
            )
            train(model, optimizer, probe.watch(loader[20:33]))
            probe.close()
            model = network()
            optimizer = adamw(model)
            model.load_state_dict(saved[0])
            optimizer.load_state_dict(saved[1])
            torch.set_rng_state(saved[3])
            again = tw.probe(model, optimizer, every=10)
            again.load_state_dict(saved[2])
            probe = again.attach()
        train(model, optimizer, probe.watch(loader[20:]))
        probe.close()
        return [{k: v for k, v in row.items() if k != "probe/seconds"} for row in probe.history.rows]

    assert run(resume=True) == run(resume=False)
    assert [row["step"] for row in run(resume=True)] == [10, 20, 30, 40]


def test_attach_and_close():
    model = network()
    optimizer = adamw(model)
    probe = tw.probe(model, optimizer, every=1)
    train(model, optimizer, batches(1))
    assert probe.attach() is probe
    probe.attach()  # twice is once
    train(model, optimizer, probe.watch(batches(2)))
    probe.close()
    train(model, optimizer, probe.watch(batches(1)))
    assert [row["step"] for row in probe.history.rows] == [1, 2]
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


def test_a_failing_measurement_does_not_stop_the_run():
    model = network()
    optimizer = adamw(model)
    losses = train(model, optimizer, batches(4))
    plain = outcome_of_run(model, optimizer, losses)

    def failing(model, batch):
        cross_entropy(model, batch)
        raise torch.OutOfMemoryError("no memory left")

    model = network()
    optimizer = adamw(model)
    with (
        pytest.warns(ThalwegWarning, match="critical: OutOfMemoryError: no memory left"),
        tw.probe(model, optimizer, every=2, loss_fn=failing) as probe,
    ):
        losses = train(model, optimizer, probe.watch(batches(4)))
    assert outcome_of_run(model, optimizer, losses) == plain
    assert [row["probe/outcome"] for row in probe.history.rows] == ["FAILED", "FAILED"]
    with (
        pytest.raises(torch.OutOfMemoryError, match="no memory left"),
        tw.probe(model, optimizer, every=2, loss_fn=failing, strict=True) as probe,
    ):
        train(model, optimizer, probe.watch(batches(4)))


def test_a_training_closure_is_refused():
    model = network()
    optimizer = adamw(model)
    batch = next(batches(1))

    def training_closure():
        optimizer.zero_grad()
        loss = cross_entropy(model, batch)
        loss.backward()
        return loss

    with (
        pytest.raises(ThalwegError, match="closure"),
        tw.probe(model, optimizer, every=1, closure=training_closure, strict=True),
    ):
        train(model, optimizer, [batch])


def test_an_interrupt_in_a_measurement_leaves_the_weights():
    model = network()
    optimizer = adamw(model)
    (batch,) = batches(1)
    train(model, optimizer, [batch])
    plain = {name: bits(p) for name, p in model.named_parameters()}

    def interrupted(model, batch):
        cross_entropy(model, batch)
        raise KeyboardInterrupt

    model = network()
    optimizer = adamw(model)
    with pytest.raises(KeyboardInterrupt), tw.probe(model, optimizer, every=1, loss_fn=interrupted) as probe:
        train(model, optimizer, probe.watch([batch]))
    assert {name: bits(p) for name, p in model.named_parameters()} == plain


def test_strict_raises_where_there_is_no_number():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with (
        pytest.raises(ThalwegError, match="step 2, NO_UPDATE: The optimizer did not move"),
        tw.probe(model, optimizer, every=2, strict=True) as probe,
    ):
        train(model, optimizer, probe.watch(batches(4)))
    assert len(probe.history.rows) == 1


def test_no_source_of_the_loss_is_told_at_the_first_step():
    """Neither closure, nor watched batches, nor outputs with .loss: known once a step has passed without any."""
    model = network()
    optimizer = adamw(model)
    with (
        pytest.raises(ThalwegError, match=r"no source of the loss.*probe\.watch\(loader\).*closure=") as raised,
        tw.probe(model, optimizer, every=100),
    ):
        train(model, optimizer, batches(3))
    assert "\n" not in str(raised.value)
    assert int(optimizer.state[model[0].weight]["step"]) == 1


def test_a_closure_in_another_random_state_is_not_taken_for_noise():
    """Python and NumPy numbers in the closure repeat; a generator of its own does not."""
    model = network()
    optimizer = adamw(model)
    own = torch.Generator().manual_seed(0)
    batch = next(batches(1))
    with tw.probe(
        model, optimizer, every=1, closure=lambda: cross_entropy(model, batch) + torch.rand((), generator=own)
    ) as probe:
        train(model, optimizer, [batch])
    assert probe.history.rows[0]["probe/outcome"] == "NOT_DETERMINISTIC"
    before = random_state()
    with tw.probe(model, optimizer, every=1, closure=lambda: cross_entropy(model, batch) + torch.rand(())) as probe:
        train(model, optimizer, [])
        optimizer.step()
    assert random_state() == before
    assert probe.history.rows[0]["probe/outcome"] != "NOT_DETERMINISTIC"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"measures": ("critical", "sharpness")},
            "measures: got 'sharpness', expected names among critical, hessian, preconditioned",
        ),
        ({"measures": "critical"}, r"Write measures=\('critical',\)"),
        ({"measures": ()}, "measures: got"),
        ({"every": 0}, "every: got 0"),
        ({"measures": {"critical": 2.5}}, "every: got 2.5"),
    ],
)
def test_bad_input(options, message):
    model = network()
    with pytest.raises(ThalwegError, match=message):
        tw.probe(model, adamw(model), **options)


def test_a_measure_that_the_optimizer_does_not_have():
    model = network()
    with pytest.raises(ThalwegError, match="'preconditioned' with Adagrad"):
        tw.probe(model, torch.optim.Adagrad(model.parameters()), measures=("preconditioned",))
    with pytest.raises(ThalwegError, match="optimizer: got"):
        tw.probe(model, object())


def test_a_new_measure_is_one_row(monkeypatch):
    monkeypatch.setitem(MEASURES, "norm", lambda step: {"update/slope": step.slope, "update/nothing": math.nan})
    model = network()
    optimizer = adamw(model)
    with tw.probe(model, optimizer, every=1, measures=("norm",)) as probe:
        train(model, optimizer, probe.watch(batches(1)))
    (row,) = probe.history.rows
    assert row["update/slope"] < 0
    assert "update/nothing" not in row
