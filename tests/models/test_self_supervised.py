"""Finding the encoder in what self-supervised training leaves: prefixes, heads, second networks."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segshift.errors import ConfigError
from segshift.models.backbone import build_backbone
from segshift.models.self_supervised import HEADS, encoder_of

WANTED = ("conv1.weight", "bn1.weight", "bn1.num_batches_tracked", "layer1.0.conv1.weight")
KNOWN = (*WANTED, "fc.weight", "fc.bias")


def encoder(value: float = 0.0) -> dict[str, Tensor]:
    return {name: torch.full((2,), value) for name in WANTED}


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


LAYOUTS: dict[str, tuple[dict[str, Tensor], float]] = {
    "MoCo": (
        under("module.encoder_k.", encoder(1))
        | under("module.encoder_q.", encoder(2) | {"fc.0.weight": torch.ones(1), "fc.2.bias": torch.ones(1)})
        | {"module.queue": torch.ones(3), "module.queue_ptr": torch.ones(1)},
        2,
    ),
    "MoCo v3": (under("module.momentum_encoder.", encoder(1)) | under("module.base_encoder.", encoder(3)), 3),
    "DINO, whole": (
        under("student.module.backbone.", encoder(1)) | under("student.module.head.", {"mlp.0.weight": torch.ones(1)})
        | under("teacher.backbone.", encoder(4)) | under("teacher.head.", {"mlp.0.weight": torch.ones(1)}),
        4,
    ),
    "SwAV": (encoder(5) | {"projection_head.0.weight": torch.ones(1), "prototypes.weight": torch.ones(1)}, 5),
    "a library's": (under("backbone.", encoder(6)) | {"projector.0.weight": torch.ones(1)}, 6),
    "as it is": (encoder(7) | {"fc.weight": torch.ones(1), "fc.bias": torch.ones(1)}, 7),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_encoder_is_found(name: str) -> None:
    tensors, value = LAYOUTS[name]
    found = encoder_of(tensors, WANTED, KNOWN)
    assert {key for key in found if key not in ("fc.weight", "fc.bias")} == set(WANTED)
    assert all(bool((found[key] == value).all()) for key in WANTED)


@settings(max_examples=40)
@given(st.lists(st.sampled_from(("module", "net", "f", "encoder", "model_ema")), max_size=3), st.sampled_from(HEADS))
def test_any_prefix_will_do(words: list[str], head: str) -> None:
    prefix = "".join(f"{word}." for word in words)
    assert encoder_of(under(prefix, encoder() | {f"{head}.9.x": torch.ones(1)}), WANTED, KNOWN).keys() == set(WANTED)


def test_what_is_no_head_is_left_for_the_caller_to_refuse() -> None:
    assert "mystery.weight" in encoder_of(encoder() | {"mystery.weight": torch.ones(1)}, WANTED, KNOWN)
    partial = {name: tensor for name, tensor in under("module.", encoder()).items() if "bn1" not in name}
    assert encoder_of(partial, WANTED, KNOWN) == partial


def test_two_encoders_of_equal_standing_are_an_error() -> None:
    with pytest.raises(
        ConfigError, match=r"it holds 2 encoders, under left_, right_; expected one, or one of encoder_q"
    ):
        encoder_of(under("left.", encoder()) | under("right.", encoder()), WANTED, KNOWN)


def test_a_backbone_is_loaded_from_it(tmp_path: Path) -> None:
    """Through the file and timm, joined names of stages included."""
    torch.manual_seed(1)
    whole = timm.create_model("convnext_atto").state_dict()
    features = {name: tensor for name, tensor in whole.items() if not name.startswith("head.")}
    torch.save(
        {"teacher": under("backbone.", features), "student": under("module.backbone.", whole)}, tmp_path / "d.pth"
    )
    loaded = build_backbone("convnext_atto", 32, str(tmp_path / "d.pth")).state_dict()
    for name, tensor in loaded.items():
        own = next(key for key in features if key.replace(".", "_") == name.replace(".", "_"))
        assert torch.equal(tensor, features[own])
    torch.save(under("left.", features) | under("right.", features), tmp_path / "two.pth")
    with pytest.raises(ConfigError, match=r"two\.pth: it holds 2 encoders"):
        build_backbone("convnext_atto", 32, str(tmp_path / "two.pth"))
