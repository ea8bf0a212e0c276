from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from thalweg.curvature import default_loss
from thalweg.curvature.steps.replay import LossSource
from thalweg.outcomes import ThalwegError

torch.set_num_threads(1)


class Output(dict):
    """Like a Hugging Face ModelOutput: attributes and items."""

    __getattr__ = dict.get


class Host(nn.Module):
    """A causal language model in the manner of Hugging Face: labels in, loss out, dropout inside."""

    def __init__(self, vocabulary=11):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 6)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(6, vocabulary)

    def forward(self, input_ids, labels=None, num_items_in_batch=None):
        logits = self.head(self.dropout(self.embedding(input_ids)))
        loss = None
        if labels is not None:
            total = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
            loss = total / (num_items_in_batch or labels[:, 1:].numel())
        return Output(loss=loss, logits=logits)


def tokens(seed, rows=3):
    ids = torch.randint(0, 11, (rows, 5), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "labels": ids}


def listening(source):
    source.recording = True
    return source.listening()


def noisy(model, batch):
    """A loss that depends on the random state, by dropout."""
    return model(batch["input_ids"], labels=batch["labels"]).loss


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_watched_batches_have_the_masks_of_their_own_forward(micro_batches):
    model = Host()
    source = LossSource(model, loss_fn=noisy)
    losses = []
    with listening(source):
        for batch in source.watch([tokens(i) for i in range(micro_batches)]):
            losses.append(noisy(model, batch))
            torch.rand(5)  # the loop draws random numbers between its forwards
    expected = torch.stack(losses).double().mean()
    assert source.loss() == expected
    torch.rand(7)
    assert source.loss() == expected


def test_the_replay_itself_is_not_recorded():
    """Second derivatives run the model in training mode with gradients, while the probe still listens."""
    model = Host()
    source = LossSource(model, loss_fn=noisy)
    with listening(source):
        losses = []
        for batch in source.watch([tokens(0), tokens(1)]):
            losses.append(noisy(model, batch))
            torch.rand(5)
        expected = torch.stack(losses).double().mean()
        assert [source.loss() == expected for _ in range(3)] == [True] * 3


def test_watched_batches_without_a_forward_of_the_whole_model():
    """The loop calls a part of the model: the batches are there, the random states are not."""
    model = Host()
    source = LossSource(model, loss_fn=lambda model, batch: model.embedding(batch["input_ids"]).mean())
    with listening(source):
        for batch in source.watch([tokens(0), tokens(1)]):
            model.embedding(batch["input_ids"])
    expected = (model.embedding(tokens(0)["input_ids"]).mean() + model.embedding(tokens(1)["input_ids"]).mean()) / 2
    assert source.loss().item() == pytest.approx(expected.item(), rel=1e-6)


def test_replay_of_forwards_with_a_loss():
    model = Host()
    source = LossSource(model)
    with listening(source):
        losses = [model(**tokens(i)).loss for i in range(2)]
        model(tokens(2)["input_ids"])  # no labels, no loss: not part of the step
        with torch.no_grad():
            model(**tokens(3))
        model.eval()
        model(**tokens(4))
        model.train()
    assert source.loss() == torch.stack(losses).double().mean()


def test_losses_that_share_a_normaliser_are_summed():
    model = Host()
    source = LossSource(model)
    with listening(source):
        losses = [model(**tokens(i, rows), num_items_in_batch=16).loss for i, rows in enumerate((1, 3))]
    assert source.loss() == torch.stack(losses).double().sum()


def test_one_batch_run_several_times_inside_a_step_counts_once():
    model = Host().eval().train()
    model.dropout.p = 0.0
    source = LossSource(model)
    batches = [tokens(0), tokens(1)]
    with listening(source):
        for _ in range(3):
            losses = [model(**batch).loss for batch in batches]
    assert source.loss() == torch.stack(losses).double().mean()
    assert len(source._distinct(list(range(6)))) == 2


def test_a_closure_comes_first_and_has_the_masks_of_the_first_forward():
    model = Host()
    batch = tokens(0)
    source = LossSource(model, loss_fn=noisy, closure=lambda: noisy(model, batch))
    with listening(source):
        (loss,) = [noisy(model, b) for b in source.watch([batch])]
    torch.rand(5)
    assert source.loss() == loss


def test_gradients_flow_through_the_replayed_loss():
    model = Host()
    source = LossSource(model)
    with listening(source):
        loss = model(**tokens(0)).loss
    (expected,) = torch.autograd.grad(loss, [model.head.weight])
    (gradient,) = torch.autograd.grad(source.loss(), [model.head.weight])
    assert torch.equal(gradient, expected)


@pytest.mark.parametrize("how", ["watch", "replay"])
def test_autocast_of_the_forward_is_used_again(how):
    torch.manual_seed(0)
    model = Host()
    source = LossSource(model, loss_fn=noisy)
    dtypes = []
    model.head.register_forward_hook(lambda _, __, out: dtypes.append(out.dtype))
    with listening(source):
        batches = source.watch([tokens(0)]) if how == "watch" else [tokens(0)]
        for batch in batches:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = noisy(model, batch)
    assert source.loss() == loss.double()
    assert dtypes == [torch.bfloat16, torch.bfloat16]


def test_nothing_is_kept_unless_recording_and_nothing_after_a_step():
    model = Host()
    source = LossSource(model, loss_fn=noisy)
    with source.listening():
        for batch in source.watch([tokens(0)]):
            model(**batch)
        assert source.seen
        assert (source._batches, source._forwards) == ([], [])
        source.recording = True
        for batch in source.watch([tokens(1)]):
            model(**batch)
        source.forget()
    model(**tokens(2))  # no longer listening
    assert (source._batches, source._forwards, source._outputs_have_loss) == ([], [], [])
    with pytest.raises(ThalwegError, match=r"no source of the loss.*probe\.watch\(loader\)"):
        source.loss()


# default_loss against the formulas


def test_default_loss_of_classes():
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    x, y = torch.randn(5, 4), torch.tensor([0, 2, 1, 1, 0])
    expected = -model(x).log_softmax(-1)[torch.arange(5), y].mean()
    torch.testing.assert_close(default_loss(model, (x, y)), expected)
    torch.testing.assert_close(default_loss(model, [x, y.int().long()]), expected)


def test_default_loss_of_a_language_model():
    """Logits (B, T, V) against y (B, T): every position counts alike, except those of -100."""
    torch.manual_seed(0)
    model = nn.Embedding(7, 7)
    x, y = torch.randint(0, 7, (2, 3)), torch.tensor([[1, 2, -100], [0, 4, 6]])
    logs = model(x).log_softmax(-1)
    picked = [logs[i, j, y[i, j]] for i in range(2) for j in range(3) if y[i, j] >= 0]
    torch.testing.assert_close(default_loss(model, (x, y)), -torch.stack(picked).mean())


def test_default_loss_of_numbers():
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    x, y = torch.randn(5, 4), torch.randn(5)
    expected = ((model(x)[:, 0] - y) ** 2).mean()
    torch.testing.assert_close(default_loss(model, (x, y)), expected)  # no silent (5, 5)
    torch.testing.assert_close(default_loss(model, (x, y[:, None])), expected)


def test_default_loss_of_dicts():
    torch.manual_seed(0)
    model = Host().eval()
    batch = tokens(0)
    expected = F.cross_entropy(model(batch["input_ids"]).logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
    torch.testing.assert_close(default_loss(model, batch), expected)

    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.host = model

        def forward(self, ids):
            return self.host(ids).logits

    torch.testing.assert_close(default_loss(Plain(), batch), expected)


@pytest.mark.parametrize(
    "batch",
    [
        torch.zeros(2, 4),
        (torch.zeros(2, 4),),
        {"x": torch.zeros(2)},
        (torch.zeros(5, 4), torch.zeros(7)),
        (torch.zeros(5, 4), torch.zeros(2, dtype=torch.long)),
    ],
)
def test_default_loss_refuses(batch):
    with pytest.raises(ThalwegError, match="batch: got"):
        default_loss(nn.Linear(4, 3), batch)
