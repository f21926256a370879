import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segshift.errors import DataError
from segshift.parts.confidence import confidences, strided
from segshift.parts.logit_bands import top1
from segshift.types import Prediction


def test_confidences_of_a_list_are_maximum_and_argmax():
    prob = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(2)).softmax(0)
    (entry,) = confidences([Prediction("a", prob)])
    assert entry.name == "a"
    assert torch.equal(entry.confidence, prob.amax(0))
    assert torch.equal(entry.label.long(), prob.argmax(0))


def test_nan_is_reported_by_the_name_of_its_image():
    low = torch.zeros(3, 2, 2)
    low[1, 0, 0] = torch.nan

    class Scan(list[Prediction]):
        def confidences(self):
            yield "b", *top1(low, (4, 4))

    with pytest.raises(DataError, match="prediction of b: a class probability is NaN"):
        list(confidences(Scan()))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(1, 5))
@settings(deadline=None)
def test_strided_is_every_nth_pixel_of_a_class(label, stride):
    expected = [i for c in range(4) for i in [j for j, value in enumerate(label) if value == c][::stride]]
    assert strided(torch.tensor([label], dtype=torch.uint8), stride).tolist() == expected
