"""A trained model in a folder: the pair of its files is whole and belongs together, or it is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tests.fakes.damage import HITS, damaged
from torch import Tensor

from segshift.errors import ConfigError, RunError
from segshift.models.network import describe_model, device_of, load_model, load_weights, save_model
from segshift.models.small import SmallNet
from segshift.sealed import seal_json
from segshift.taxonomy import unnamed

CONFIG = SmallNet(width=4, dilations=(1,))
ANY_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)


def saved(folder: Path, seed: int = 0, short_side: int | None = 48) -> Path:
    torch.manual_seed(seed)
    save_model(folder, CONFIG, CONFIG.build(3).state_dict(), unnamed(3), short_side)
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return saved(tmp_path / "run" / "model")


def content(model: Path) -> dict[str, Any]:
    found = json.loads((model / "model.json").read_text())
    del found["sha256"]
    return found


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return list(found) == list(expected) and all(torch.equal(found[name], expected[name]) for name in found)


def test_a_model_comes_back_by_run_or_folder_or_file(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    for folder in (model, model.parent):
        found = load_model(folder)
        assert (found.space, found.short_side) == (unnamed(3), 48)
        assert same(dict(sorted(found.network.state_dict().items())), dict(sorted(weights.items())))
        assert describe_model(folder).network == CONFIG
    network = CONFIG.build(3)
    load_weights(network, model / "model.safetensors")
    assert torch.equal(network.state_dict()[next(iter(weights))], next(iter(weights.values())))


@ANY_FOLDER
@given(hits=HITS)
def test_no_damage_reads_as_another_model(tmp_path: Path, hits: list[tuple[int, int]]) -> None:
    model = tmp_path / "model"
    if not model.exists():
        saved(model)
    whole = {name: (model / name).read_bytes() for name in ("model.safetensors", "model.json")}
    expected = load_model(model)
    for name, written in whole.items():
        for other in damaged(written, hits):
            (model / name).write_bytes(other)
            try:
                found = load_model(model)
            except RunError as error:
                assert name in str(error)
            else:
                assert name == "model.json"
                assert (found.space, found.short_side) == (expected.space, expected.short_side)
                assert same(found.network.state_dict(), expected.network.state_dict())
        (model / name).write_bytes(written)


def test_weights_of_another_run_are_refused(model: Path, tmp_path: Path) -> None:
    """Also what a kill leaves between the two writes, where an older model of other weights was there."""
    other = saved(tmp_path / "other", seed=1)
    shutil.copy(other / "model.safetensors", model / "model.safetensors")
    for origin in (model, model.parent, model / "model.safetensors"):
        with pytest.raises(RunError, match=r"model\.safetensors: is damaged, or belongs to another model: .*resume"):
            load_weights(CONFIG.build(3), origin)
    with pytest.raises(RunError, match="belongs to another model"):
        load_model(model)
    # Saved again, as the resumed run does it, the pair is whole.
    saved(model, seed=1)
    assert same(load_model(model).network.state_dict(), load_model(other).network.state_dict())


def test_the_same_weights_saved_again_leave_the_same_bytes(model: Path) -> None:
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    saved(model)
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before


def test_a_model_saved_before_there_were_digests_is_read(model: Path) -> None:
    old = content(model) | {"format": 1}
    del old["weights_sha256"]
    (model / "model.json").write_text(json.dumps(old, indent=2))
    assert describe_model(model).digest is None
    assert load_model(model).short_side == 48


def test_a_lone_file_of_weights_needs_no_description(model: Path, tmp_path: Path) -> None:
    for name in ("weights.safetensors", "alone/model.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(model / "model.safetensors", tmp_path / name)
        load_weights(CONFIG.build(3), tmp_path / name)
    with pytest.raises(RunError, match=r"holds no model/model\.json; expected a finished run"):
        load_weights(CONFIG.build(3), tmp_path / "alone")
    (model / "model.safetensors").unlink()
    with pytest.raises(RunError, match=r"model\.safetensors.*Expected a model to start from"):
        load_model(model)


BAD: list[tuple[str, Any]] = [
    ("format", 3),
    ("format", None),
    ("network", []),
    ("network", "SmallNet"),
    ("network", {"kind": "Other"}),
    ("network", {"kind": "SmallNet", "width": "wide"}),
    ("network", {"kind": ["SmallNet"]}),
    ("network", {"kind": "SmallNet", "depth": 3}),
    ("space", None),
    ("space", {"classes": [1]}),
    ("short_side", "96"),
    ("short_side", 0),
    ("short_side", 1.5),
    ("short_side", True),
    ("weights_sha256", None),
    ("weights_sha256", 7),
]


@pytest.mark.parametrize(("key", "value"), BAD)
def test_a_description_that_makes_no_sense_is_refused(model: Path, key: str, value: Any) -> None:
    """Sealed with care, as by another version."""
    (model / "model.json").write_bytes(seal_json(content(model) | {key: value}))
    with pytest.raises(RunError, match=r"model\.json: cannot be read .*expected a model that segshift saved"):
        load_model(model)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '"model"', "{}", "[" * 100_000, '{"network": {}}'])
def test_what_is_no_description_is_refused(model: Path, text: str) -> None:
    (model / "model.json").write_text(text)
    for read in (describe_model, load_model):
        with pytest.raises(RunError, match=r"model\.json: cannot be read .*expected a model that segshift saved"):
            read(model.parent)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@ANY_FOLDER
@given(key=st.sampled_from(["format", "network", "space", "short_side"]), value=JSON)
def test_any_other_value_is_understood_or_refused(tmp_path: Path, key: str, value: Any) -> None:
    model = tmp_path / "model"
    if not model.exists():
        saved(model)
        shutil.copy(model / "model.json", tmp_path / "whole.json")
    whole = json.loads((tmp_path / "whole.json").read_text())
    del whole["sha256"]
    (model / "model.json").write_bytes(seal_json(whole | {key: value}))
    try:
        found = describe_model(model)
    except RunError as error:
        assert "model.json: cannot be read" in str(error)
    else:
        assert key == "short_side"
        assert found.short_side == value


def test_a_device_is_named_as_torch_names_it(model: Path) -> None:
    assert device_of("cpu") == torch.device("cpu")
    assert device_of("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert next(load_model(model, "auto").network.parameters()).device == device_of("auto")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "", "cpu:x"])
def test_a_device_that_is_not_here_is_named_with_what_is_expected(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"device = '{name}': .*Expected a device of this machine, as torch"):
        device_of(name)
