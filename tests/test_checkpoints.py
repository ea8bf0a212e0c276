"""Checkpoints: every kind of file gives the weights back bit for bit, and a wrong one is named for what it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from thalweg import checkpoints
from thalweg.outcomes import ThalwegError


class Tied(nn.Module):
    """An embedding and a head that are one tensor, registered twice, with a buffer."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(7, 4)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)


@pytest.fixture
def model() -> Tied:
    return Tied(seed=1)


def test_safetensors_round_trip_keeps_tied_weights_once(model: Tied, tmp_path: Path) -> None:
    path = checkpoints.write(tmp_path / "w.safetensors", model.state_dict())
    assert equal(checkpoints.read(path), model.state_dict())
    other = Tied(seed=2)
    checkpoints.load_into(other, checkpoints.read(path))
    assert equal(other.state_dict(), model.state_dict())
    assert other.head.weight is other.embedding.weight
    numbers = 7 * 4 + 4 * 4
    assert path.stat().st_size < 4 * numbers + 8 + 800  # one copy of the tied tensor, and the header


def test_views_and_types_survive(tmp_path: Path) -> None:
    base = torch.arange(12.0)
    state = {
        "half": base[:6].view(2, 3),
        "overlapping": base[3:9],
        "transposed": base.view(3, 4).T,
        "bf16": base.bfloat16(),
        "count": torch.tensor(3),
        "empty": torch.zeros(0),
        "also_empty": torch.zeros(0, 2),
    }
    assert equal(checkpoints.read(checkpoints.write(tmp_path / "w.safetensors", state)), state)


def test_reads_what_others_write(model: Tied, tmp_path: Path) -> None:
    state = model.state_dict()
    files = {name: tmp_path / name for name in ("plain.pt", "nested.pt", "ddp.pt", "compiled.pt", "saved.safetensors")}
    torch.save(state, files["plain.pt"])
    torch.save({"epoch": 3, "state_dict": state, "optimizer": {"lr": 0.1}}, files["nested.pt"])
    torch.save({"model": {f"module.{name}": tensor for name, tensor in state.items()}}, files["ddp.pt"])
    torch.save({f"module._orig_mod.{name}": tensor for name, tensor in state.items()}, files["compiled.pt"])
    save_model(model, str(files["saved.safetensors"]))
    for file in files.values():
        assert equal(checkpoints.read(file), dict(state)), file.name


def test_reads_hugging_face_folders(model: Tied, tmp_path: Path) -> None:
    # as save_pretrained does: the tied head is left out of the file
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "head.weight"}
    whole, shards, pickled = tmp_path / "whole", tmp_path / "shards", tmp_path / "pickled"
    for folder in (whole, shards, pickled):
        folder.mkdir()
    save_file(state, whole / "model.safetensors", metadata={"format": "pt"})
    torch.save(state, pickled / "pytorch_model.bin")
    names = sorted(state)
    parts = {"model-00001-of-00002.safetensors": names[:3], "model-00002-of-00002.safetensors": names[3:]}
    for file, part in parts.items():
        save_file({name: state[name] for name in part}, shards / file)
    weight_map = {name: file for file, part in parts.items() for name in part}
    (shards / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    for folder in (whole, shards, pickled):
        assert equal(checkpoints.read(folder), state)
        other = Tied(seed=2)
        checkpoints.load_into(other, checkpoints.read(folder))
        assert equal(other.state_dict(), model.state_dict())
    (shards / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ThalwegError, match=r"model-00002-of-00002\.safetensors is absent"):
        checkpoints.read(shards)


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Linear(2, 3)
        self.lm_head = nn.Linear(3, 2)


def test_a_leading_model_is_fixed_only_where_that_alone_fixes_it() -> None:
    bare, wrapped = nn.Linear(2, 3), nn.Sequential()
    wrapped.add_module("model", nn.Linear(2, 3))
    checkpoints.load_into(bare, wrapped.state_dict())
    assert torch.equal(bare.weight, wrapped.model.weight)
    checkpoints.load_into(wrapped, nn.Linear(2, 3).state_dict())
    assert not torch.equal(bare.weight, wrapped.model.weight)
    both = Wrapped()  # its own names begin with model. already
    checkpoints.load_into(both, Wrapped().state_dict())
    with pytest.raises(ThalwegError, match="another model"):
        checkpoints.load_into(nn.Linear(2, 3), Wrapped().state_dict())


def test_a_checkpoint_of_another_model_is_named_and_nothing_is_copied() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = {
        "0.weight": torch.zeros(3, 2),
        "0.bias": torch.zeros(5),
        "1.weight": torch.zeros(4, 3),
        "2.gain": torch.zeros(1),
    }
    with pytest.raises(ThalwegError) as caught:
        checkpoints.load_into(model, state)
    message = str(caught.value)
    assert "checkpoint of another model than Sequential" in message
    assert "missing 1 of 4: 1.bias" in message
    assert "unexpected 1 of 4: 2.gain" in message
    assert "wrong shape for 1 of 4: 0.bias (5) instead of (3)" in message
    assert "\n" not in message
    assert equal(dict(model.state_dict()), before)


def test_long_lists_of_names_are_cut() -> None:
    with pytest.raises(ThalwegError, match="and 3 more"):
        checkpoints.load_into(nn.Sequential(*[nn.Linear(1, 1) for _ in range(4)]), {})


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("code from a checkpoint ran",))


def test_files_that_are_no_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.safetensors").write_text("hello")
    (tmp_path / "empty.pt").touch()
    torch.save({"a": 1}, tmp_path / "numbers.pt")
    torch.save({"a": Evil()}, tmp_path / "evil.pt")
    (tmp_path / "folder").mkdir()
    for name, expected in (
        ("absent.pt", "exists"),
        ("text.safetensors", "not a safetensors file"),
        ("empty.pt", "weights only"),
        ("numbers.pt", "no state dict"),
        ("evil.pt", "weights only"),
        ("folder", "model.safetensors"),
    ):
        with pytest.raises(ThalwegError, match=expected) as caught:
            checkpoints.read(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert "code from a checkpoint ran" not in capsys.readouterr().out
    with pytest.raises(ThalwegError, match=r"w\.safetensors"):
        checkpoints.write(tmp_path / "w.pt", {})
