"""Two ranks measure what one process measures on their joined batches: DDP and FSDP2, gloo, by torchrun."""

from __future__ import annotations

import math

import pytest
import torch

from tests.curvature import on_ranks
from tests.curvature.on_ranks import EVERY, STEPS, WRAPPED
from tests.ranks import on_two_ranks
from thalweg.curvature.steps.distributed import averaged, everywhere, gathered, refuse_sharded, unwrap_model
from thalweg.outcomes import ThalwegError

MEASURED = list(range(EVERY, STEPS + 1, EVERY))
COST = "probe/seconds"

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What each of two ranks saw: a dict by case for each rank."""
    return on_two_ranks("tests.curvature.on_ranks", tmp_path_factory.mktemp("ranks"))


def without_cost(rows):
    return [{key: value for key, value in row.items() if key != COST} for row in rows]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("how", WRAPPED)
def test_two_ranks_give_the_rows_of_one_process(seen, how, dtype):
    expected = on_ranks.run("one", dtype=getattr(torch, dtype))["rows"]
    found = seen[0][f"{how} {dtype}"]["rows"]
    assert [row["step"] for row in found] == MEASURED
    assert [row["probe/outcome"] for row in found] == ["OK"] * len(MEASURED)
    for row, alone in zip(found, expected, strict=True):
        for key in ("stability/margin", "lr/critical", "sharpness/critical", "sharpness/threshold_critical"):
            assert row[key] == pytest.approx(alone[key], rel=1e-3 if dtype == "float32" else 1e-9), (row["step"], key)


@pytest.mark.parametrize("how", WRAPPED)
def test_the_change_of_the_loss_is_that_of_the_joined_batch(seen, how):
    expected = on_ranks.one_step("one")
    found = seen[0][f"{how} step"]
    assert found["f"][0] == 0.0 and found["f"][3] == 0.0
    assert found["f"] == pytest.approx(expected["f"], rel=1e-9, abs=1e-15)
    assert found["slope"] == pytest.approx(expected["slope"], rel=1e-9)
    assert found == seen[1][f"{how} step"]


def test_every_rank_has_the_same_rows_and_only_the_first_logs(seen):
    cases = [name for name, case in seen[0].items() if isinstance(case, dict) and "rows" in case]
    assert len(cases) > 10
    for name in cases:
        first, second = (rank[name] for rank in seen)
        assert without_cost(first["rows"]) == without_cost(second["rows"]), name
        assert first["logged"] == [row["step"] for row in first["rows"]] and second["logged"] == [], name


@pytest.mark.parametrize("how", WRAPPED)
def test_training_is_bit_identical_with_and_without_the_probe(seen, how):
    for rank in seen:
        assert len(rank[f"{how} float32"]["rows"]) == len(MEASURED)
        assert rank[f"{how} float32"]["weights"] == rank[f"{how} without"]["weights"]


@pytest.mark.parametrize("how", WRAPPED)
@pytest.mark.parametrize(("case", "outcome"), [("lr 0", "NO_UPDATE"), ("nan", "NOT_FINITE")])
def test_outcomes_agree(seen, how, case, outcome):
    """`nan`: the loss of rank 1 alone is not finite."""
    for rank in seen:
        assert [row["probe/outcome"] for row in rank[f"{how} {case}"]["rows"]] == [outcome] * len(MEASURED)


@pytest.mark.parametrize("how", WRAPPED)
@pytest.mark.parametrize(
    ("case", "options"),
    [("one entry", {"only_last_bias": True}), ("sgd unstable", {"optimizer": torch.optim.SGD, "lr": 1.5})],
)
def test_a_rank_that_holds_nothing_of_the_update_and_a_run_that_blows_up(seen, how, case, options):
    expected = on_ranks.run("one", dtype=torch.float64, **options)["rows"]
    found = seen[1][f"{how} {case}"]["rows"]
    assert [row["probe/outcome"] for row in found] == [row["probe/outcome"] for row in expected]
    assert "OK" in {row["probe/outcome"] for row in found}
    margins = [row.get("stability/margin", math.nan) for row in found]
    assert margins == pytest.approx([row.get("stability/margin", math.nan) for row in expected], rel=1e-6, nan_ok=True)


def test_an_error_on_one_rank_is_one_on_all_and_training_goes_on(seen):
    for rank in seen:
        assert [row["probe/outcome"] for row in rank["ddp raises"]["rows"]] == ["FAILED"] * len(MEASURED)
        assert rank["ddp raises"]["weights"] == rank["ddp without"]["weights"]


def test_eigenvalues_under_ddp_are_those_of_the_averaged_loss(seen):
    measures = ("critical", "hessian", "preconditioned")
    expected = on_ranks.run("one", dtype=torch.float64, measures=measures)["rows"]
    for row, alone in zip(seen[1]["ddp hessian"]["rows"], expected, strict=True):
        for key in ("sharpness/hessian", "sharpness/preconditioned"):
            assert row[key] == pytest.approx(alone[key], rel=1e-6), (row["step"], key)


def test_eigenvalues_under_fsdp2_are_refused(seen):
    for measure in ("hessian", "preconditioned"):
        assert "sharded parameters (FSDP2)" in seen[0][f"fsdp2 {measure}"]
        assert 'measures=("critical",)' in seen[0][f"fsdp2 {measure}"]


@pytest.mark.parametrize("case", ["ddp offloaded", "fsdp2 offloaded", "ddp per module"])
def test_another_mode_gives_the_same_rows_and_the_same_run(seen, case):
    plain = f"{case.split()[0]} float32"
    for rank in seen:
        assert without_cost(rank[case]["rows"]) == without_cost(rank[plain]["rows"])
        assert rank[case]["weights"] == rank[plain]["weights"]


def test_mixed_reads_of_sharded_weights_are_refused(seen):
    for rank in seen:
        assert "mode: got 'per_module', expected whole parameters, not sharded ones (FSDP2)" in rank["fsdp2 per module"]


def test_alone_nothing_is_sent():
    tensor = torch.ones(2)
    assert gathered("a") == ["a"] and everywhere(lambda: 1) == [1] and averaged(lambda: tensor) is tensor
    with pytest.raises(KeyError):
        everywhere(lambda: {}["absent"])
    refuse_sharded("parameters", [tensor])


def test_the_older_fsdp_is_refused():
    class FullyShardedDataParallel(torch.nn.Module):
        pass

    with pytest.raises(ThalwegError, match="fully_shard"):
        unwrap_model(torch.nn.Sequential(FullyShardedDataParallel()))
