"""The momentum network: a moving average that is in evaluation mode, without gradients, and survives a kill."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.parallel import DataParallel

from segshift.errors import ConfigError
from segshift.parts.teacher import Teacher


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


@given(st.floats(0, 1), st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_weights_move_by_the_share_that_does_not_stay(momentum: float, steps: int) -> None:
    student = network()
    teacher = Teacher(student, momentum)
    expected = [weight.detach().double() for weight in student.parameters()]
    for seed in range(1, steps + 1):
        student.load_state_dict(network(seed).state_dict())
        teacher.follow(student)
        moved = [weight.detach().double() for weight in student.parameters()]
        expected = [momentum * old + (1 - momentum) * new for old, new in zip(expected, moved)]
    for weight, wanted in zip(teacher.network.parameters(), expected, strict=True):
        torch.testing.assert_close(weight.double(), wanted, rtol=1e-5, atol=1e-6)


def test_batch_norm_statistics_are_the_student_s() -> None:
    student = network()
    teacher = Teacher(student, 0.999)
    student(torch.rand(2, 3, 4, 4))
    teacher.follow(student)
    mean, count = student.get_buffer("1.running_mean"), student.get_buffer("1.num_batches_tracked")
    assert torch.equal(teacher.network.get_buffer("1.running_mean"), mean)
    assert torch.equal(teacher.network.get_buffer("1.num_batches_tracked"), count)
    assert int(count) == 1


def test_it_is_evaluated_without_gradients_and_apart_from_the_student() -> None:
    student = network().train()
    teacher = Teacher(student, 0.5)
    image = torch.rand(2, 3, 4, 4, requires_grad=True)
    said = teacher(image)
    assert not said.requires_grad
    torch.testing.assert_close(said, network().eval()(image))
    with torch.no_grad():
        next(student.parameters()).add_(1)
    assert torch.equal(teacher(image), said)
    assert student.training


def test_zero_momentum_is_the_student_itself() -> None:
    student = network()
    teacher = Teacher(student, 0.0)
    student.load_state_dict(network(5).state_dict())
    teacher.follow(student)
    for own, other in zip(teacher.network.parameters(), student.parameters(), strict=True):
        assert torch.equal(own, other)


def test_a_wrapped_student_is_followed_inside() -> None:
    student = network()
    wrapped = DataParallel(student)
    teacher = Teacher(wrapped, 0.5)
    with torch.no_grad():
        student.get_parameter("0.weight").add_(2)
    teacher.follow(wrapped)
    torch.testing.assert_close(teacher.network.get_parameter("0.weight"), student.get_parameter("0.weight") - 1)


def test_it_goes_on_where_it_was() -> None:
    teacher = Teacher(network(), 0.9)
    teacher.follow(network(1))
    other = Teacher(network(2), 0.9)
    other.load_state_dict(teacher.state_dict())
    for each in (teacher, other):
        each.follow(network(3))
    for own, again in zip(teacher.network.parameters(), other.network.parameters(), strict=True):
        assert torch.equal(own, again)


@pytest.mark.parametrize("momentum", [-0.1, 1.1, float("nan")])
def test_a_momentum_that_is_no_share_is_refused(momentum: float) -> None:
    with pytest.raises(ConfigError, match=r"momentum = .*expected 0"):
        Teacher(network(), momentum)
