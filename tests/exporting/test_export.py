"""Exported models compute what torch computes, without Segshift, at sizes they were not traced with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.fakes.trained import NETWORK, saved, trained

from segshift import extras
from segshift.cli import main
from segshift.errors import ConfigError, RunError
from segshift.exporting import tracing as module
from segshift.exporting.export import ExportConfig, export
from segshift.exporting.tracing import ScoresOf
from segshift.models.deeplab import DeepLabV2, DeepLabV3Plus
from segshift.models.fcn8s import FCN8s
from segshift.models.network import Network, load_model
from segshift.models.small import SmallNet
from segshift.prediction.class_maps import label_of
from segshift.scan import Views
from segshift.taxonomy import LabelSpace

STREET = LabelSpace("few", ("road", "car", "sky"), ((128, 64, 128), (0, 0, 142), (70, 130, 180)))
NETWORKS = (
    SmallNet(width=4, dilations=(1, 2), align_corners=True),
    DeepLabV3Plus("resnet18", aspp_channels=16),
    DeepLabV2("resnet18", auxiliary=True),
    DeepLabV2("resnet50", layout="caffe"),
    FCN8s(width=0.05),
)


def image(height: int, width: int, batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(3))


def test_weights_and_their_description(tmp_path: Path) -> None:
    run = saved(tmp_path / "run" / "model", STREET)
    done = export(tmp_path / "run", tmp_path / "out", ExportConfig("model"))
    assert done.files == (tmp_path / "out" / "model.json", tmp_path / "out" / "model.safetensors")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["model.json", "model.safetensors"]
    before, after = load_model(run), load_model(tmp_path / "out")
    assert (before.space, before.short_side) == (after.space, after.short_side)
    assert torch.equal(before.network.eval()(image(20, 30)).logits, after.network.eval()(image(20, 30)).logits)
    with pytest.raises(ConfigError, match="expected another folder"):
        export(tmp_path / "run", run, ExportConfig("model"))


def test_scores_are_those_that_labels_come_from() -> None:
    model, pixels = trained(), torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8)
    with torch.no_grad():
        scores = ScoresOf(model.network)(pixels[None] / 255)
        assert torch.equal(label_of(model.network, pixels, (40, 50), None, Views(), None), scores[0].argmax(0).byte())
        assert ScoresOf(model.network, native_stride=True)(image(40, 64)).shape == (1, 5, 10, 16)


def check_program(path: Path, run: Path, sizes: tuple[tuple[int, int], ...]) -> None:
    program = torch.export.load(path).module()
    scores = ScoresOf(load_model(run).network).eval()
    with torch.no_grad():
        for height, width in sizes:
            given = image(height, width, 2)
            torch.testing.assert_close(program(given), scores(given), atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_program_of_torch_export(tmp_path: Path) -> None:
    run = saved(tmp_path / "run", STREET)
    done = export(run, tmp_path / "out", ExportConfig("torch-export"))
    assert (done.difference, done.multiple, len(done.sizes)) == (0.0, 1, 2)
    check_program(done.files[0], run, ((17, 90), (64, 96)))
    extra = {"segshift.json": ""}
    torch.export.load(done.files[0], extra_files=extra)
    told = json.loads(extra["segshift.json"])
    assert json.loads(told["segshift.classes"]) == ["road", "car", "sky"]
    assert json.loads(told["segshift.mean"]) == [0.5, 0.5, 0.5]


def session_of(path: Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: f"{type(n).__name__}-{getattr(n, 'layout', '')}")
@pytest.mark.parametrize("native", [False, True])
def test_onnx_computes_the_same(tmp_path: Path, network: Network, native: bool) -> None:
    run = saved(tmp_path / "run", STREET, network)
    done = export(run, tmp_path / "out", ExportConfig("onnx", native))
    assert done.difference <= 1e-4
    session = session_of(done.files[0])
    scores = ScoresOf(load_model(run).network, native).eval()
    for height, width in ((96, 160), (192, 64)) if done.multiple > 1 else ((71, 163), (190, 66)):
        given = image(height, width, 2)
        (found,) = session.run(None, {"image": given.numpy()})
        with torch.no_grad():
            expected = scores(given).numpy()
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 1e-4 * max(1.0, float(np.abs(expected).max()))
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["segshift.classes"]) == ["road", "car", "sky"]
    assert json.loads(told["segshift.colors"])[0] == [128, 64, 128]
    assert json.loads(told["segshift.stride"]) == (scores.network.stride if native else 1)
    assert json.loads(told["segshift.multiple_of"]) == done.multiple


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("network", NETWORKS[1:], ids=lambda n: f"{type(n).__name__}-{getattr(n, 'layout', '')}")
def test_programs_of_other_networks(tmp_path: Path, network: Network) -> None:
    run = saved(tmp_path / "run", STREET, network)
    done = export(run, tmp_path / "out", ExportConfig("torch-export"))
    check_program(done.files[0], run, ((96, 160), (192, 64)))


@pytest.mark.slow
def test_a_file_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOLERANCE", -1.0)
    with pytest.raises(RunError, match=r"model.pt2: differs from torch by .* Nothing was written"):
        export(saved(tmp_path / "run"), tmp_path / "out", ExportConfig("torch-export"))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_network_that_cannot_be_traced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = ScoresOf.forward

    def undecided(scores: ScoresOf, image: torch.Tensor) -> torch.Tensor:
        found = forward(scores, image)
        return found if float(found.sum()) > 0 else -found

    monkeypatch.setattr(ScoresOf, "forward", undecided)
    with pytest.raises(ConfigError, match=r"torch.export cannot follow it .*use --format model"):
        export(saved(tmp_path / "run"), tmp_path / "out", ExportConfig("torch-export"))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run = saved(tmp_path / "run", network=NETWORK)
    assert main(["export", str(run), "--out", str(tmp_path / "out"), "--format", "model"]) == 0
    assert "model.safetensors" in capsys.readouterr().out
    assert main(["export", str(run), "--out", str(tmp_path), "--format", "model", "--native-stride", "True"]) == 1
    assert "native_stride = True" in capsys.readouterr().err
    assert main(["export", str(tmp_path), "--out", str(tmp_path)]) == 1
    assert "holds no model/model.json" in capsys.readouterr().err

    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(extras, "import_module", missing)
    assert main(["export", str(run), "--out", str(tmp_path / "out")]) == 1
    assert 'pip install "segshift[onnx]"' in capsys.readouterr().err
