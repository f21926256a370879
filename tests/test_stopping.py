"""A request to stop is remembered, obeyed where nothing is lost, and a second one obeyed at once."""

import os
import signal
import threading
from pathlib import Path

import pytest

from segshift.errors import StoppedError
from segshift.stopping import Stopping


def plain(items, _):
    return items


def handlers():
    return signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_before_the_next_image(number):
    before = handlers()
    stopping, looked = Stopping(Path("runs/mine")), []
    message = rf"stopped by {number.name}: .* saved; .*segshift resume runs/mine"
    with stopping.listening(), pytest.raises(StoppedError, match=message):
        for index in stopping.between_images(plain)(iter(range(5)), 5):
            looked.append(index)
            if index == 2:
                os.kill(os.getpid(), number)
    assert looked == [0, 1, 2]
    assert handlers() == before


def test_a_second_signal_ends_the_process_at_once():
    stopping = Stopping(Path("run"))
    with stopping.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopping.signal == "SIGTERM"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_one_of_several_processes_leaves_no_scan_alone():
    stopping = Stopping(Path("run"), alone=False)
    with stopping.listening():
        os.kill(os.getpid(), signal.SIGINT)
        assert list(stopping.between_images(plain)(iter(range(3)), 3)) == [0, 1, 2]
    assert stopping.signal == "SIGINT"  # what the processes then tell each other at the next step


def test_no_signal_arrives_in_another_thread():
    before, seen = handlers(), []

    def listen():
        with Stopping(Path("run")).listening():
            seen.append(handlers())

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert seen == [before]
