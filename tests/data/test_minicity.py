"""MiniCity: pure drawing, exact labels, a long tail, a spatial prior, two domains that differ."""

import time

import numpy as np
import pytest
import torch

from segshift.data.dataset import LabelledDataset, OracleTarget, Unlabelled
from segshift.data.minicity import MiniCity, _drawn, contact_sheet
from segshift.data.minicity_style import Domain
from segshift.errors import ConfigError
from segshift.taxonomy import CITYSCAPES

ROAD, SKY, CAR = (CITYSCAPES.classes.index(name) for name in ("road", "sky", "car"))
DOMAINS: tuple[Domain, ...] = ("source", "target")


@pytest.fixture(scope="module", params=DOMAINS)
def labels(request) -> np.ndarray:
    """(200, 96, 192) labels of one domain."""
    dataset = MiniCity(request.param, count=200)
    return np.stack([dataset.label(i).numpy() for i in range(dataset.count)])


def test_is_a_labelled_dataset():
    dataset = MiniCity("target", "test", count=3)
    assert isinstance(dataset, LabelledDataset)
    assert not hasattr(Unlabelled(dataset), "label")
    assert torch.equal(OracleTarget(dataset).label(1), dataset.label(1))


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("size", [(96, 192), (64, 100)])
def test_shapes_and_types(domain, size):
    dataset = MiniCity(domain, size=size)
    image, label = dataset.image(3), dataset.label(3)
    assert image.shape == (3, *size) and image.dtype == torch.uint8 and image.is_contiguous()
    assert label.shape == size and label.dtype == torch.uint8


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_same_bytes_twice(domain):
    dataset = MiniCity(domain, seed=5)
    image, label = dataset.image(2), dataset.label(2)
    _drawn.cache_clear()
    dataset.image(1)
    assert torch.equal(dataset.image(2), image) and torch.equal(dataset.label(2), label)


def test_no_global_random_state_is_touched_or_read():
    np.random.seed(1)
    torch.manual_seed(1)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    first = MiniCity("target", seed=9).image(0)
    assert np.array_equal(np.random.get_state()[1], before[0]) and torch.equal(torch.get_rng_state(), before[1])
    np.random.seed(2)
    _drawn.cache_clear()
    assert torch.equal(MiniCity("target", seed=9).image(0), first)


def test_every_field_decides_the_scene():
    base = MiniCity("target", seed=0).label(0)
    others = [
        MiniCity("target", seed=1).label(0),
        MiniCity("target", "test").label(0),
        MiniCity("source").label(0),
        MiniCity("target").label(1),
    ]
    assert all((other != base).float().mean() > 0.05 for other in others)


def test_count_does_not_change_a_scene():
    assert torch.equal(MiniCity("source", count=4).image(3), MiniCity("source", count=40).image(3))


def test_a_caller_cannot_spoil_what_is_kept():
    dataset = MiniCity("source")
    dataset.label(0).fill_(255)
    dataset.image(0).zero_()
    assert dataset.label(0).max() < len(CITYSCAPES) and dataset.image(0).max() > 0


def test_names_are_sorted_and_distinct():
    dataset = MiniCity("source", count=150)
    assert list(dataset.names) == sorted(set(dataset.names)) and len(dataset.names) == 150
    assert dataset.names[12] == "source_train_00012"


def test_fingerprint_follows_the_fields():
    variants = [MiniCity("source"), MiniCity("target"), MiniCity("source", "test"), MiniCity("source", seed=1)]
    variants += [MiniCity("source", count=5), MiniCity("source", size=(64, 128))]
    assert len({v.fingerprint() for v in variants}) == len(variants)
    assert MiniCity("source").fingerprint() == MiniCity("source", "train").fingerprint()


def test_labels_are_valid_and_many(labels):
    ids = np.unique(labels)
    assert ids.max() < len(CITYSCAPES)
    assert len(ids) >= 14


def test_the_classes_have_a_long_tail(labels):
    share = np.bincount(labels.ravel(), minlength=len(CITYSCAPES)) / labels.size
    share = np.sort(share[share > 0])[::-1]
    assert 0 < share[-1] < 1e-3
    assert share[:3].sum() > 0.5
    assert (share < 0.02).sum() >= 8


def test_a_spatial_prior_means_something(labels):
    middle = labels.shape[1] // 2
    assert (labels[:, middle:] == ROAD).sum() > 0.95 * (labels == ROAD).sum()
    assert (labels[:, :middle] == SKY).sum() > 0.99 * (labels == SKY).sum()
    per_pixel = np.stack([(labels == c).mean(0) for c in range(len(CITYSCAPES))])
    overall = per_pixel.mean((1, 2)).max()
    assert per_pixel.max(0).mean() > overall + 0.2, "position alone should predict better than the commonest class"


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("size", [(256, 512), (512, 1024)])
def test_all_sizes_show_the_same_scene(domain, size):
    small, large = MiniCity(domain).label(4).numpy(), MiniCity(domain, size=size).label(4).numpy()
    step = size[0] // 96
    rows = (np.arange(96) + 0.5) * size[0] / 96
    columns = (np.arange(192) + 0.5) * size[1] / 192
    assert step >= 2
    assert (large[np.ix_(rows.astype(int), columns.astype(int))] == small).mean() > 0.9


def test_image_and_label_show_the_same_thing():
    """The mean colour of sky differs from that of road in the pixels the label names."""
    dataset = MiniCity("source")
    for i in range(5):
        image, label = dataset.image(i).float(), dataset.label(i)
        sky, road = image[:, label == SKY].mean(1), image[:, label == ROAD].mean(1)
        assert sky[2] > road[2] + 40


def test_the_domains_differ_in_colour():
    means = [
        torch.stack([MiniCity(domain).image(i).float().mean((1, 2)) for i in range(20)]).mean(0) for domain in DOMAINS
    ]
    assert (means[0] - means[1]).abs().max() > 15


def test_the_target_camera_is_noisier():
    """Differences between neighbouring road pixels, where both domains show plain asphalt."""

    def roughness(domain: Domain) -> float:
        values = []
        for i in range(8):
            image, label = MiniCity(domain).image(i).float(), MiniCity(domain).label(i)
            both = (label[:, 1:] == ROAD) & (label[:, :-1] == ROAD)
            values.append((image[:, :, 1:] - image[:, :, :-1]).abs().mean(0)[both].median())
        return float(torch.stack(values).mean())

    assert roughness("target") > 1.5 * roughness("source")


def test_drawing_is_fast():
    _drawn.cache_clear()
    start = time.process_time()
    for i in range(20):
        MiniCity("target", seed=77).image(i)
    assert (time.process_time() - start) / 20 < 0.06


def test_image_and_label_are_drawn_once():
    _drawn.cache_clear()
    dataset = MiniCity("source", seed=3)
    dataset.image(0)
    dataset.label(0)
    assert (_drawn.cache_info().misses, _drawn.cache_info().hits) == (1, 1)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"domain": "day"}, "domain"),
        ({"domain": "source", "split": "val"}, "split"),
        ({"domain": "source", "count": 0}, "count"),
        ({"domain": "source", "count": 10**6}, "count"),
        ({"domain": "source", "size": (8, 8)}, "size"),
        ({"domain": "source", "size": (96,)}, "size"),
        ({"domain": "source", "seed": -1}, "seed"),
    ],
)
def test_bad_arguments_are_named(fields, word):
    with pytest.raises(ConfigError, match=f"^{word} = .*expected"):
        MiniCity(**fields)  # pyright: ignore


def test_an_index_out_of_range_is_an_error():
    with pytest.raises(IndexError, match="expected 0 to 1"):
        MiniCity("source", count=2).image(2)


def test_contact_sheet_shows_images_above_labels():
    dataset = MiniCity("source", count=6)
    sheet = contact_sheet(dataset, 2, 3)
    assert sheet.shape == (2 * 2 * 96, 3 * 192, 3)
    assert np.array_equal(sheet[:96, 192:384], dataset.image(1).permute(1, 2, 0).numpy())
    assert np.array_equal(sheet[288:, :192], CITYSCAPES.palette()[dataset.label(3).numpy()])
