"""Category-adaptive self-training: its rounds, on any number of processes, its steps and its options."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.methods.test_category_adaptive import Share
from tests.methods.test_iast_processes import Meeting, MetScan
from tests.methods.test_laws import CLASSES, OPTIMIZER, Shelf, batch, model, predictions, same, state, step
from tests.test_scan import CLASSES as SCAN_CLASSES
from tests.test_scan import Noise

from segshift.data.sampling import no_images
from segshift.errors import ConfigError, DataError
from segshift.methods.adaptsegnet import AdaptSegNetConfig
from segshift.methods.category_adaptive import (
    CategoryAdaptiveConfig,
    bdl_thresholds,
    centroids,
    entropy_thresholds,
    select,
)
from segshift.methods.cbst import CBSTConfig
from segshift.methods.iast import IASTConfig
from segshift.methods.oracle import OracleConfig
from segshift.models.small import SmallNet
from segshift.parts.augment import ColourAugmentation
from segshift.types import IGNORE, Batch, Prediction

IMAGES = 7


def begun(config: CategoryAdaptiveConfig, scan: Any = None) -> Shelf:
    method: Any = config.build(model(), 10, 0)
    store = Shelf()
    scan = predictions(IMAGES) if scan is None else scan
    method.begin_round(1, scan, None, store)
    assert [method.state_dict()["thresholds"]] == list(store.thresholds.values())
    again = config.build(model(), 10, 0)
    again.load_state_dict(method.state_dict())
    assert again.thresholds == method.thresholds
    return store


# --- a round ---------------------------------------------------------------------------------------------------------

RULES: list[dict[str, Any]] = [
    {},
    {"weighting": "mean", "delta": 0.02},
    {"entropy": "normalised", "delta": 0.05},
    {"delta": -0.3},
]


@pytest.mark.parametrize("options", RULES, ids=str)
def test_a_round_writes_eq3(options: dict[str, Any]) -> None:
    config = CategoryAdaptiveConfig(optimizer=OPTIMIZER, **options)
    store = begun(config)
    middle = centroids(predictions(IMAGES), CLASSES, config.weighting)
    theta = entropy_thresholds(middle, config.delta, config.entropy)
    assert store.thresholds == {"entropy": theta.tolist()}
    assert list(store.labels) == [f"image_{i}" for i in range(IMAGES)]
    for image in predictions(IMAGES):
        assert torch.equal(store.labels[image.name].long(), select(image.prob, theta, config.entropy))
        assert torch.equal(store.predicted[image.name].long(), image.prob.argmax(0))
        assert store.labels[image.name].dtype == store.predicted[image.name].dtype == torch.uint8
    labels = torch.stack(list(store.labels.values()))
    assert 0 < (labels == IGNORE).float().mean() < 1


def test_each_image_by_its_own_centroids() -> None:
    scan = predictions(IMAGES)
    scan[2] = Prediction(scan[2].name, torch.tensor([0.5, 0.3, 0.2, 0.0])[:, None, None].repeat(1, 9, 11))
    config = CategoryAdaptiveConfig(scope="image", delta=0.05, optimizer=OPTIMIZER)
    store = begun(config, scan)
    own = {image.name: entropy_thresholds(centroids([image], CLASSES), 0.05) for image in scan}
    for image in scan:
        assert torch.equal(store.labels[image.name].long(), select(image.prob, own[image.name]))
    shown = {c: [own[i.name][c].item() for i in scan if (i.prob.argmax(0) == c).any()] for c in range(CLASSES)}
    assert [len(shown[c]) for c in range(CLASSES)] == [IMAGES, IMAGES - 1, IMAGES - 1, IMAGES - 1]
    expected = [math.fsum(values) / len(values) for values in shown.values()]
    assert store.thresholds["entropy"] == pytest.approx(expected, abs=1e-12)
    of_one = begun(replace(config, scope="dataset"), [scan[1]])
    assert torch.equal(of_one.labels[scan[1].name], store.labels[scan[1].name])
    assert begun(config, [scan[1]]).thresholds["entropy"] == pytest.approx(of_one.thresholds["entropy"], abs=1e-12)
    assert begun(config, [scan[2]]).thresholds["entropy"][1:] == [0.0] * (CLASSES - 1)


def test_the_constant_selector_is_iasts() -> None:
    store, iast = begun(CategoryAdaptiveConfig("constant", constant=0.6, optimizer=OPTIMIZER)), Shelf()
    method: Any = IASTConfig("constant", constant=0.6).build(model(), 10, 0)
    method.begin_round(1, predictions(IMAGES), None, iast)
    assert store.thresholds == iast.thresholds == {"theta": [0.6] * CLASSES}
    assert store.labels.keys() == iast.labels.keys()
    assert all(torch.equal(store.labels[name], label) for name, label in iast.labels.items())
    assert all(torch.equal(store.predicted[name], label) for name, label in iast.predicted.items())


def test_the_bdl_selector_keeps_half_of_each_class_or_what_reaches_9() -> None:
    scan = predictions(IMAGES)
    sure = torch.tensor([0.0, 0.0, 0.04, 0.96])[:, None, None].repeat(1, 40, 40)
    scan.append(Prediction("sure", sure))
    store, theta = begun(CategoryAdaptiveConfig("bdl", optimizer=OPTIMIZER), scan), bdl_thresholds(scan, CLASSES)
    assert store.thresholds == {"theta": theta.tolist()}
    assert theta[3] == 0.9 > theta[:3].max()
    maps = {image.name: image.prob for image in scan}
    for c in range(CLASSES):
        own = torch.cat([prob[c][prob.argmax(0) == c] for prob in maps.values()])
        kept = sum(int((label == c).sum()) for label in store.labels.values())
        assert kept == (len(own) // 2 if c < 3 else int((own >= 0.9).sum()))


def test_nan_ends_the_round_with_the_name_of_its_image() -> None:
    scan = predictions(3)
    scan[1].prob[2, 0, 0] = math.nan
    wrong: list[dict[str, Any]] = [{}, {"scope": "image"}, {"selector": "bdl"}, {"selector": "constant"}]
    for options in wrong:
        with pytest.raises(DataError, match="image_1: a class probability is NaN"):
            begun(CategoryAdaptiveConfig(optimizer=OPTIMIZER, **options), scan)


# --- on several processes --------------------------------------------------------------------------------------------

SHARED: dict[str, CategoryAdaptiveConfig] = {
    "dataset": CategoryAdaptiveConfig(),
    "mean": CategoryAdaptiveConfig(weighting="mean"),
    "image": CategoryAdaptiveConfig(scope="image"),
    "bdl": CategoryAdaptiveConfig("bdl"),
}


def on_processes(scan_of: Any, config: CategoryAdaptiveConfig, world: int, network: Any) -> tuple[Any, Any]:
    """Labels by name, and the thresholds, on which all processes must agree; scan_of(rank, meeting)."""
    meeting = Meeting(world)
    stores = [Shelf() for _ in range(world)]

    def work(rank: int) -> None:
        method: Any = config.build(network, 10, 0)
        method.begin_round(1, scan_of(rank, meeting), None, stores[rank])

    meeting.run(work)
    assert len(set(meeting.merges)) == 1
    theta = stores[0].thresholds
    assert all(store.thresholds == theta for store in stores)
    return {name: label.tolist() for store in stores for name, label in store.labels.items()}, theta


@pytest.mark.parametrize("config", SHARED.values(), ids=SHARED)
def test_any_number_of_processes_agrees(config: CategoryAdaptiveConfig) -> None:
    scan, network = predictions(IMAGES), model()
    alone = begun(config)
    expected = {name: label.tolist() for name, label in alone.labels.items()}, alone.thresholds
    for world in (1, 2, 3, 9):  # two of nine have no image
        found = on_processes(
            lambda rank, meeting: Share(scan[rank :: meeting.world], rank, meeting), config, world, network
        )
        assert found == expected


@pytest.mark.parametrize("config", SHARED.values(), ids=SHARED)
def test_a_scan_of_a_network(config: CategoryAdaptiveConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network: Any = SmallNet(width=4).build(SCAN_CLASSES)
    torch.nn.init.normal_(network.classifier.weight, std=1.5)
    network.eval()
    images = Noise(5)

    def scan_of(rank: int, meeting: Meeting) -> Any:
        return MetScan(meeting, rank, network, images, tmp_path)

    found = [on_processes(scan_of, config, world, network) for world in (1, 2)]
    assert found[0] == found[1]
    assert sorted(found[0][0]) == sorted(images.names)
    (theta,) = found[0][1].values()
    assert len(set(theta)) > 1


# --- a step ----------------------------------------------------------------------------------------------------------


def test_a_step_is_eq6_on_the_target() -> None:
    """Divided by the labelled pixels, it is IAST without its regularisers; by all, that times the coverage."""
    config = CategoryAdaptiveConfig(normalisation="labelled", optimizer=OPTIMIZER)
    assert config.domains == ("target",)
    method = config.build(model(), 10, 0)
    twin = IASTConfig(ignored_weight=0, confident_weight=0, optimizer=OPTIMIZER).build(model(), 10, 0)
    (first,) = step(CategoryAdaptiveConfig(optimizer=OPTIMIZER).build(model(), 10, 0), batch())
    coverage = (batch().target.label != IGNORE).float().mean().item()
    for t in range(3):
        (ours,), (theirs,) = step(method, Batch(no_images(), batch().target), t), step(twin, batch(), t)
        assert list(ours) == ["target"]
        assert ours == theirs
        if t == 0:
            assert first["target"] == pytest.approx(ours["target"] * coverage, rel=1e-6)
    assert same(state(method), state(twin))
    assert 0.7 < coverage < 0.9


def test_colours_are_augmented_where_asked() -> None:
    losses = [
        step(CategoryAdaptiveConfig(augment=augment, optimizer=OPTIMIZER).build(model(), 10, 0), batch())[0]["target"]
        for augment in (None, ColourAugmentation(jitter_probability=1), ColourAugmentation(jitter_probability=1))
    ]
    assert losses[0] != losses[1] == losses[2]


# --- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"selector": "mine"}, "selector = 'mine'"),
        ({"delta": math.nan}, "delta = nan"),
        ({"delta": -math.inf}, "delta = -inf"),
        ({"weighting": "mine"}, "weighting = 'mine'"),
        ({"scope": "mine"}, "scope = 'mine'"),
        ({"entropy": "mine"}, "entropy = 'mine'"),
        ({"constant": 1.5}, r"constant = 1\.5"),
        ({"constant": -0.1}, r"constant = -0\.1"),
        ({"normalisation": "mine"}, "normalisation = 'mine'"),
        ({"batch_norm": "none"}, "batch_norm is 'none'"),
        ({"retain": OracleConfig()}, "retain = OracleConfig"),
        ({"retain": CBSTConfig()}, "retain = CBSTConfig"),
        ({"retain": IASTConfig()}, "retain = IASTConfig"),
        ({"retain": CategoryAdaptiveConfig()}, "retain = CategoryAdaptiveConfig"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], found: str) -> None:
    with pytest.raises(ConfigError, match=f"{found}.*expected"):
        CategoryAdaptiveConfig(**options)


def test_iast_refuses_it_as_a_warm_up_too() -> None:
    with pytest.raises(ConfigError, match="retain = CategoryAdaptiveConfig; expected a warm-up"):
        IASTConfig(retain=CategoryAdaptiveConfig())


def test_negative_deltas_and_warm_ups_are_welcome() -> None:
    config = CategoryAdaptiveConfig(delta=-0.5, retain=AdaptSegNetConfig())
    assert config.domains == ("source", "target")
