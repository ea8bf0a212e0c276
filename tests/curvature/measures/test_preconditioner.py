from __future__ import annotations

import pytest
import torch
from torch import nn

from thalweg.curvature.measures.preconditioner import preconditioner_of
from thalweg.outcomes import ThalwegError

torch.set_num_threads(1)


@pytest.mark.parametrize("steps", [1, 2, 50])
@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_the_update_of_torch_is_lr_times_m_over_p(kind, amsgrad, steps):
    """d = -η P⁻¹ m, with the first moment followed by hand: the definition of P, checked on torch's own step."""
    torch.manual_seed(0)
    x = nn.Parameter(torch.randn(5, dtype=torch.float64))
    optimizer = kind([x], lr=0.01, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.0, amsgrad=amsgrad)
    moment = torch.zeros(5, dtype=torch.float64)
    for _ in range(steps):
        x.grad = torch.randn(5, dtype=torch.float64)
        moment = 0.8 * moment + 0.2 * x.grad
        before = x.detach().clone()
        optimizer.step()
    parameters, diagonal = preconditioner_of(optimizer, [x])
    assert parameters == [x]
    torch.testing.assert_close(x.detach() - before, -0.01 * moment / diagonal[0], rtol=1e-9, atol=1e-15)


def test_the_convention_at_the_first_step():
    """P_1 = (1 - β1)(|g| + ε): ten times smaller than √v̂ + ε."""
    x = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.AdamW([x], betas=(0.9, 0.999), eps=1e-8)
    x.grad = torch.full((1,), 4.0, dtype=torch.float64)
    optimizer.step()
    assert preconditioner_of(optimizer, [x])[1][0].item() == pytest.approx(0.1 * (4 + 1e-8), rel=1e-9)


def test_groups_have_their_own_settings_and_unstepped_parameters_are_left_out():
    a, b, c = (nn.Parameter(torch.zeros(1, dtype=torch.float64)) for _ in range(3))
    optimizer = torch.optim.Adam([{"params": [a]}, {"params": [b, c], "betas": (0.5, 0.999)}], eps=0.0)
    a.grad, b.grad = torch.ones_like(a), torch.ones_like(b)
    optimizer.step()
    parameters, diagonal = preconditioner_of(optimizer, [a, b, c])
    assert parameters == [a, b]
    assert [d.item() for d in diagonal] == pytest.approx([0.1, 0.5])


def test_sgd_has_none_and_others_are_refused():
    x = nn.Parameter(torch.zeros(1))
    assert preconditioner_of(torch.optim.SGD([x], lr=0.1, momentum=0.9), [x]) == ([x], None)
    with pytest.raises(ThalwegError, match=r"'preconditioned' with RMSprop.*Write 'hessian'"):
        preconditioner_of(torch.optim.RMSprop([x]), [x])
