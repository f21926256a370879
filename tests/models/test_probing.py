"""What is found out about a network nobody described, and that it computes the same through the contract."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.own import Plain, Upsampled, Wholes
from torch import Tensor, nn

from segshift.errors import ConfigError
from segshift.models.probing import class_scores, probe
from segshift.models.segmenter import upsample
from segshift.models.wrapped import OwnModule, Wrapped, read_plain

IMAGE = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def built(module: nn.Module, **options: Any) -> Wrapped:
    network = OwnModule("mine", module=module, **options).build(5)
    assert isinstance(network, Wrapped)
    return network.eval()


def normalised(image: Tensor, network: Wrapped) -> Tensor:
    return (image - network.mean) / network.std


def test_a_plain_network_is_taken_as_it_is() -> None:
    module = Plain().eval()
    network = built(module)
    output = network(IMAGE)
    assert torch.equal(output.logits, module(normalised(IMAGE, network)))
    assert (network.stride, network.found.classifier, network.found.native) == (2, "head", True)
    assert torch.equal(output.embedding, module.encoder(normalised(IMAGE, network)))
    assert {id(p) for p in network.head_parameters()} == {
        id(p) for p in network.body.get_submodule("head").parameters()
    }


@pytest.mark.parametrize("align_corners", [False, True])
def test_scores_are_taken_before_they_are_enlarged(align_corners: bool) -> None:
    module = Upsampled(align_corners=align_corners).eval()
    network = built(module)
    output = network(IMAGE)
    assert output.logits.shape[2:] == (32, 48)
    assert network.align_corners is align_corners
    own = module(normalised(IMAGE, network))["out"]
    assert torch.allclose(upsample(output.logits, (64, 96), align_corners), own, atol=1e-5)


def test_what_class_scores_do_not_depend_on_is_frozen() -> None:
    network = built(Upsampled())
    assert network.found.unused == ("aux.weight", "aux.bias")
    assert [name for name, p in network.named_parameters() if not p.requires_grad] == [
        "body.aux.weight",
        "body.aux.bias",
    ]


def test_the_middle_layer_with_as_many_channels_is_no_classifier() -> None:
    module = nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU(), nn.Conv2d(5, 5, 3, 1, 1), nn.ReLU(), nn.Conv2d(5, 5, 1))
    assert built(module).found.classifier == "4"


def test_scores_made_of_more_than_a_classifier_are_not_cut_short() -> None:
    class Two(Plain):
        def forward(self, image: Tensor) -> Tensor:
            return super().forward(image).square()

    module = Two().eval()
    network = built(module)
    assert not network.found.native
    assert torch.equal(network(IMAGE).logits, module(normalised(IMAGE, network)))


@given(height=st.integers(1, 130), width=st.integers(1, 130))
def test_any_size_is_brought_to_one_that_fits(height: int, width: int) -> None:
    logits = WHOLES(torch.zeros(1, 3, height, width)).logits
    sides = [max(64, -(-side // 32) * 32) for side in (height, width)]
    assert list(logits.shape[2:]) == [side // 2 for side in sides]


WHOLES = built(Wholes())


def test_multiples_are_found_and_their_own_sizes_untouched() -> None:
    assert (WHOLES.found.side, WHOLES.found.multiple) == (64, 32)
    body: Any = WHOLES.body
    assert torch.equal(WHOLES(IMAGE).logits, body(normalised(IMAGE, WHOLES)))


def test_probing_leaves_the_network_as_it_was() -> None:
    module = Upsampled().train()
    module.encoder[1].eval()
    before = copy.deepcopy(module.state_dict())
    drawn = torch.random.get_rng_state()
    probe(module, read_plain, 5)
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert module.training and not module.encoder[1].training
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert not any(layer._forward_hooks for layer in module.modules())


def test_the_given_module_stays_as_it_is() -> None:
    module = Plain()
    network = built(module)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert any(bool(parameter.any()) for parameter in module.parameters())


def test_named_layers_are_stages() -> None:
    network = built(Plain(), stages=("encoder.0", "encoder"))
    assert [tuple(stage.shape[1:]) for stage in network(IMAGE).stages] == [(16, 32, 48), (16, 32, 48)]


def test_a_part_by_any_name_is_the_encoder() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 5, 1))
    assert len(built(module).head_parameters()) == 0
    assert len(built(module, encoder="0").head_parameters()) == 2


def test_random_weights_are_others() -> None:
    module = Plain()
    drawn = OwnModule("mine", module=module, weights="none").build(5)
    own = {f"body.{name}": tensor for name, tensor in module.state_dict().items()}
    weight = "body.head.weight"
    assert not torch.equal(drawn.state_dict()[weight], own[weight])
    assert torch.equal(built(module).state_dict()[weight], own[weight])


class Fixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(1, 5, 64, 64))

    def forward(self, image: Tensor) -> Tensor:
        return self.scores + image.mean(1, keepdim=True)


class Words(nn.Module):
    def forward(self, image: Tensor) -> str:
        return "road"


@pytest.mark.parametrize(
    ("module", "options", "said"),
    [
        (Plain(7), {}, "gives 7 class scores a pixel, the data has 5 classes"),
        (nn.Linear(3, 5), {}, "takes no image of 3 channels"),
        (nn.Sequential(nn.Conv2d(3, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()), {}, "a tensor of shape (1, 5)"),
        (Words(), {}, "returns str"),
        (Fixed(), {}, "none whose height and width differ"),
        (Plain(), {"stages": ("stem",)}, "has no layer 'stem'; expected one of encoder, encoder.0"),
        (Fixed(), {"weights": "none"}, "has weights and no reset_parameters"),
    ],
)
def test_what_is_no_segmentation_network_is_said(module: nn.Module, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        built(module, **options)
    assert said in str(error.value)


def test_a_stage_that_is_no_map_is_said() -> None:
    module = nn.Sequential(nn.Conv2d(3, 5, 1), nn.Identity())
    vector = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scores, self.vector = module, vector

        def forward(self, image: Tensor) -> Tensor:
            self.vector(image)
            return self.scores(image)

    with pytest.raises(ConfigError, match=r"layer 'vector' gives \(2, 3\)"):
        built(Both(), stages=("vector",))(IMAGE)


def test_a_module_that_is_not_at_hand_is_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"your own module 'net.py:build'.*--model FILE.py:FUNCTION"):
        OwnModule("net.py:build").build(5)


def test_scores_are_found_in_what_networks_return() -> None:
    scores = torch.zeros(1, 5, 4, 4)
    for found in (scores, {"out": scores}, {"logits": scores, "loss": 0}, (scores, None), [scores]):
        assert class_scores(found) is scores
    with pytest.raises(ConfigError, match="returns NoneType"):
        class_scores({"loss": scores})


def test_gradients_reach_every_weight_that_is_trained() -> None:
    network = built(Upsampled()).train()
    F.cross_entropy(network(IMAGE).logits, torch.zeros(2, 32, 48, dtype=torch.long)).backward()
    missing = [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
