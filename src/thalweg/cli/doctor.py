"""`thalweg doctor`: what is tested, refused or untested, then what this machine has."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import asdict, dataclass
from typing import Literal

import thalweg
from thalweg.cli.arguments import Json, print_json

State = Literal["tested", "refused", "untested"]


@dataclass(frozen=True, slots=True)
class Support:
    """One row of the support matrix; `where` names the test that shows it, or says what to expect."""

    what: str
    state: State
    where: str


# The probe, by host, precision, compilation and parallelism. tests/cli/test_doctor.py checks that each test named exists.
SUPPORT = (
    Support("plain PyTorch loop, closure or watched batches", "tested", "tests/curvature/test_probed_runs.py::test_200_steps_are_bit_identical_with_and_without_the_probe"),
    Support("models whose output has .loss (replay)", "tested", "tests/curvature/test_probed_runs.py::test_replay_of_a_language_model_with_accumulation"),
    Support("gradient accumulation", "tested", "tests/curvature/test_probed_runs.py::test_gradient_accumulation_takes_all_micro_batches_since_the_last_step"),
    Support("dropout, BatchNorm", "tested", "tests/curvature/steps/test_step.py::test_the_same_masks_and_statistics_at_every_evaluation"),
    Support("optimizer.step(closure)", "tested", "tests/curvature/test_probed_runs.py::test_an_optimizer_that_calls_its_closure_inside_the_step"),
    Support("tied weights, frozen weights, parameter groups", "tested", "tests/curvature/steps/test_step.py::test_tied_weights_once_and_frozen_weights_never"),
    Support("float32 and float64 weights", "tested", "tests/curvature/test_every_measure.py::test_known_values_and_weights_untouched"),
    Support("bfloat16 autocast", "tested", "tests/curvature/test_probed_runs.py::test_bfloat16_autocast"),
    Support("pure 16-bit weights", "refused", "outcome LOW_PRECISION: keep float32 weights under autocast"),
    Support("one copy of the weights (mode=\"per_module\"), copies on the CPU (offload)", "tested", "tests/curvature/steps/test_weights.py::test_every_mode_gives_the_same_bits_and_changes_nothing"),
    Support("mode=\"per_module\" of compiled models", "refused", "one line says so: measure in_place"),
    Support("mode=\"per_module\" under FSDP2", "refused", "one line says so: measure in_place, whose copies are sharded"),
    Support("resume", "tested", "tests/curvature/probes/test_probing.py::test_resume_continues_the_history"),
    Support("Hessian eigenvalues of compiled models", "tested", "tests/curvature/measures/test_hessian.py::test_compiled_models_run_eagerly"),
    Support("critical sharpness of compiled models", "tested", "tests/curvature/test_failure_modes.py::test_critical_sharpness_of_a_compiled_model"),
    Support("sparse gradients", "tested", "tests/curvature/test_failure_modes.py::test_sparse_gradients"),
    Support("GradScaler that skips a step", "tested", "tests/curvature/test_failure_modes.py::test_a_scaler_that_skips_a_step"),
    Support("several optimizers, a probe each", "tested", "tests/curvature/test_failure_modes.py::test_two_optimizers_over_one_model"),
    Support("Hugging Face Trainer, Lightning, Accelerate", "tested", "tests/integrations/test_every_host.py::test_the_rows_of_the_plain_loop"),
    Support("stop, inside hosts", "tested", "tests/integrations/test_every_host.py::test_an_unstable_run_ends_in_its_host_as_the_host_ends_it"),
    Support("DDP, FSDP2 (gloo, two ranks)", "tested", "tests/curvature/steps/test_distributed.py::test_two_ranks_give_the_rows_of_one_process"),
    Support("Hugging Face Trainer under DDP", "tested", "tests/integrations/test_every_host.py::test_a_trainer_on_two_ranks_gives_the_rows_of_one"),
    Support("eigenvalues under DDP", "tested", "tests/curvature/steps/test_distributed.py::test_eigenvalues_under_ddp_are_those_of_the_averaged_loss"),
    Support("eigenvalues under FSDP2, anything under FSDP1", "refused", "second derivatives cannot pass FSDP's hooks; flat parameters belong to no layer"),
    Support("a host with FSDP2, NCCL, hybrid meshes, DeepSpeed", "untested", "no machine for them where this was built"),
    Support("CUDA", "untested", "no GPU where this was built"),
    Support("Windows", "untested", "sweeps take no lock there"),
)  # fmt: skip
PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "numba", "pandas", "matplotlib", "safetensors")


def doctor(*, json: Json = False) -> None:
    """Print the support matrix, then the versions and devices of this machine.

    Args:
        json: print everything as JSON on stdout.
    """
    versions = {
        "thalweg": thalweg.__version__,
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }
    devices = _devices()
    if json:
        print_json({"support": [asdict(row) for row in SUPPORT], "versions": versions, "devices": devices})
        return
    width = max(len(row.what) for row in SUPPORT)
    print("The probe, as it stands:")
    for row in SUPPORT:
        where = row.where.partition("::")[2] if row.state == "tested" else row.where
        print(f"  {row.state:9} {row.what:{width}}  {where}")
    print("This machine:")
    print("  " + ", ".join(f"{name} {version}" for name, version in versions.items()))
    print(f"  {devices}")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _devices() -> str:
    """What torch computes on; it is asked in a process of its own, since the command line never imports it."""
    import subprocess
    import sys

    script = "import torch as t; print(t.cuda.device_count(), t.backends.mps.is_available(), t.get_num_threads())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    if done.returncode:
        return f"torch does not load: {done.stderr.strip().splitlines()[-1]}"
    cuda, mps, threads = done.stdout.split()
    return f"{cuda} CUDA devices, MPS {'yes' if mps == 'True' else 'no'}, {threads} torch threads by default"
