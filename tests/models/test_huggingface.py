"""Models of transformers: read from a folder, kept by their config, written back as they came."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fakes.own import mask2former, saved, segformer, upernet

from segshift.errors import ConfigError
from segshift.models import huggingface
from segshift.models.huggingface import HuggingFace, described, network_around, network_of, whole
from segshift.models.network import load_model, save_model
from segshift.models.segmenter import upsample
from segshift.models.small import SmallNet
from segshift.models.smp import SegmentationModels
from segshift.models.wrapped import Wrapped
from segshift.taxonomy import unnamed

IMAGE = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
NAMES = ("sky", "hill", "ground", "block", "ball")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("huggingface") / "segformer"
    saved(segformer(names=NAMES), path)
    (path / "preprocessor_config.json").write_text(
        json.dumps({"do_normalize": True, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]})
    )
    return path


def body(network: Any) -> Any:
    assert isinstance(network, Wrapped)
    return network.body


def test_a_folder_is_read(folder: Path) -> None:
    found = described(str(folder))
    assert (found.classes, found.num_labels, found.mean, found.std) == (NAMES, 5, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))


def test_scores_are_the_models_own(folder: Path) -> None:
    network = network_of(str(folder)).build(5).eval()
    output = network(IMAGE)
    own = body(network)(pixel_values=(IMAGE - network.mean) / network.std)
    assert torch.equal(output.logits, own.logits)
    assert [stage.shape[1] for stage in output.stages] == [8, 16, 16, 16]
    assert output.embedding is not None
    assert output.embedding.shape == (1, 16, 16, 24)
    assert (network.stride, network.align_corners) == (4, False)


def test_the_model_is_built_again_without_its_folder(folder: Path, tmp_path: Path) -> None:
    config = network_of(str(folder))
    network = config.build(5)
    gone = replace(config, name=str(tmp_path / "gone"))
    save_model(tmp_path / "model", gone, network.state_dict(), unnamed(5), 48)
    read = load_model(tmp_path / "model")
    assert isinstance(read.network, Wrapped)
    assert torch.equal(read.network.eval()(IMAGE).logits, network.eval()(IMAGE).logits)
    with pytest.raises(ConfigError, match="expected a folder that save_pretrained wrote"):
        gone.build(5)


def test_a_head_for_other_classes_is_new(folder: Path) -> None:
    assert whole(str(folder), 5)
    assert not whole(str(folder), 4)
    network = network_of(str(folder)).build(4)
    assert network(IMAGE).logits.shape[1] == 4
    old = body(network_of(str(folder)).build(5)).state_dict()
    new = body(network).state_dict()
    changed = [name for name in old if old[name].shape != new[name].shape or not torch.equal(old[name], new[name])]
    assert changed == ["decode_head.classifier.weight", "decode_head.classifier.bias"]


def test_saved_as_it_came(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSemanticSegmentation

    network = network_of(str(folder)).build(5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1)
    huggingface.save(network, NAMES, tmp_path / "out")
    read: Any = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "out")
    expected = body(network).eval()(pixel_values=IMAGE).logits
    assert torch.equal(read.eval()(pixel_values=IMAGE).logits, expected)
    found = described(str(tmp_path / "out"))
    assert (found.classes, found.mean, found.std) == (NAMES, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))


def test_another_network_is_no_model_of_hugging_face(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no model of Hugging Face; expected one, or format = model"):
        huggingface.save(SmallNet(width=4).build(3), ("a", "b", "c"), tmp_path)
    with pytest.raises(ConfigError, match="the network is a FPN, no model of Hugging Face"):
        huggingface.save(SegmentationModels("fpn", "resnet18").build(3), ("a", "b", "c"), tmp_path)


def test_a_model_at_hand_is_known() -> None:
    model = segformer(names=NAMES)
    found = network_around(model)
    assert found is not None
    assert (found.classes, found.network.mean) == (NAMES, huggingface.IMAGENET_MEAN)
    built = replace(found.network, weights="none").build(5)
    assert body(built).state_dict().keys() == model.state_dict().keys()
    assert network_around(torch.nn.Conv2d(3, 5, 1)) is None


def test_upernet_without_its_auxiliary_head(tmp_path: Path) -> None:
    name = saved(upernet(), tmp_path).removeprefix("hf:")
    network = network_of(name).build(5).eval()
    assert isinstance(network, Wrapped)
    assert network.found.classifier == "decode_head.classifier"
    assert network.found.unused[0].startswith("auxiliary_head.")
    own = network.body(pixel_values=(IMAGE - network.mean) / network.std).logits
    logits = network(IMAGE).logits
    assert logits.shape[2:] == (16, 24)
    assert torch.allclose(upsample(logits, (64, 96), network.align_corners), own, atol=1e-5)


def test_scores_of_masks_are_what_the_library_makes_of_them(tmp_path: Path) -> None:
    """Against the library's own post-processing, which upsamples first and takes the largest."""
    from transformers import Mask2FormerImageProcessorPil

    name = saved(mask2former(), tmp_path).removeprefix("hf:")
    network = network_of(name).build(5).eval()
    image = IMAGE[..., :64]
    logits = network(image).logits
    with torch.no_grad():
        found = network.body((image - network.mean) / network.std)  # pyright: ignore[reportCallIssue]
    expected = Mask2FormerImageProcessorPil().post_process_semantic_segmentation(found)[0]
    small = torch.nn.functional.interpolate(logits.exp(), size=expected.shape, mode="bilinear", align_corners=False)
    assert (small[0].argmax(0) == expected).float().mean() > 0.99


@pytest.mark.parametrize("name", ["", "no/such-folder-or-name/at-all"])
def test_a_model_that_is_not_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        ConfigError, match=r"model = hf:.*cannot be had .* expected a folder that save_pretrained wrote"
    ):
        described(name)


def test_a_damaged_config_is_said(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot be had"):
        described(str(tmp_path))
    with pytest.raises(ConfigError, match="cannot build a 'nothing'"):
        HuggingFace("x", '{"model_type": "nothing"}', weights="none").build(5)


def test_weights_that_are_pickled_are_not_read(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(ConfigError, match="cannot be had"):
        network_of(str(tmp_path)).build(5)


def test_code_that_comes_with_a_model_is_not_run(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForSemanticSegmentation": "evil.Evil", "AutoConfig": "evil.EvilConfig"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    replace(network_of(str(tmp_path)), weights="none").build(5)
    assert not (tmp_path / "ran").exists()
