import threading
import time

import pytest

from segshift.background import Behind, ahead


def test_ahead_works_on_the_next_while_this_one_is_looked_at():
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        return item * item

    found = ahead(range(4), work)
    assert next(found) == (0, 0)
    deadline = time.monotonic() + 10
    while 1 not in begun and time.monotonic() < deadline:
        time.sleep(0.001)
    assert begun == [0, 1]  # one ahead, and no more
    assert list(found) == [(1, 1), (2, 4), (3, 9)]


def test_what_work_raises_comes_in_the_place_of_its_item():
    def work(item: int) -> int:
        if item == 2:
            raise ValueError("item 2")
        return item

    found = ahead(range(4), work)
    assert [next(found), next(found)] == [(0, 0), (1, 1)]
    with pytest.raises(ValueError, match="item 2"):
        next(found)


def test_nothing_ahead_of_nothing_and_no_thread_stays():
    before = threading.active_count()
    assert list(ahead([], int)) == []
    leaving = ahead(range(10), int)
    next(leaving)
    leaving.close()
    assert threading.active_count() == before


def test_behind_keeps_the_order_and_waits_for_all():
    done: list[int] = []
    before = threading.active_count()
    behind = Behind(most=2)
    for item in range(20):
        behind.do(done.append, item)
        assert item - len(done) <= 2
    behind.wait()
    assert done == list(range(20))
    assert threading.active_count() == before


def test_behind_raises_at_the_next_call_and_begins_nothing_after():
    done: list[int] = []

    def fail() -> None:
        raise OSError("the disk is full")

    behind = Behind()
    behind.do(fail)
    with pytest.raises(OSError, match="disk is full"):
        behind.wait()
    behind.do(done.append, 1)  # it can be used again
    behind.wait()
    assert done == [1]
