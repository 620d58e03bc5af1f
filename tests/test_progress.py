import os
import re
import struct
import subprocess
import sys
import threading

import pytest

from rcan.progress import Progress, observed_progress


def test_log_ends_with_a_line_of_everything_done(capfd):
    with Progress(3, "Restoring", unit="tile") as progress:
        for _ in range(3):
            progress.advance(1, loss="0.5")
    out, err = capfd.readouterr()
    assert err == ""
    (line,) = out.splitlines()
    assert re.fullmatch(r"Restoring: 100% 3/3 \[.*tile.*, loss=0\.5\]", line)


def test_log_has_a_line_every_half_minute(capfd, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("rcan.progress.time.monotonic", lambda: now[0])
    with Progress(10, "Training", unit="step") as progress:
        for _ in range(10):
            now[0] += 11
            progress.advance()
    shares = [int(line.partition("%")[0].partition(": ")[2]) for line in capfd.readouterr().out.splitlines()]
    assert shares == [30, 60, 90, 100]  # at 33, 66, 99 and 110 seconds


def test_log_tells_the_time_left(capfd, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("rcan.progress.time.monotonic", lambda: now[0])
    with Progress(4, "Training", unit="step") as progress:
        now[0] = 60
        progress.advance()
    assert "25% 1/4 [01:00<03:00," in capfd.readouterr().out


def test_large_amounts_are_shortened(capfd):
    with Progress(4_000_000, "Restoring", unit="voxel") as progress:
        progress.advance(4_000_000)
    assert "100% 4.00M/4.00M" in capfd.readouterr().out


def test_work_that_ends_early_does_not_claim_to_be_done(capfd):
    with pytest.raises(RuntimeError), Progress(4, "Restoring", unit="tile") as progress:  # noqa: PT012
        progress.advance()
        raise RuntimeError
    assert "100%" not in capfd.readouterr().out


def test_said_lines_go_to_the_log(capfd):
    with Progress(4, "Training", unit="step") as progress:
        progress.say("Epoch 1/2")
    assert capfd.readouterr().out == "Epoch 1/2\n"


def test_on_a_terminal_there_is_a_bar_on_standard_error_and_said_lines_on_standard_output(tmp_path):
    program = """
from rcan.progress import Progress
with Progress(3, "Restoring", unit="tile") as progress:
    for number in range(3):
        progress.advance(1, loss="0.5")
        progress._bar.refresh()
        progress.say(f"tile {number}")
"""
    pty, fcntl, termios = map(pytest.importorskip, ("pty", "fcntl", "termios"))
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    finished = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=end, check=True)
    shown = os.read(terminal, 65536)
    os.close(terminal)
    os.close(end)
    assert "Restoring: 100%|" in shown.decode()
    assert "█" in shown.decode() or "#" in shown.decode()
    assert finished.stdout.decode().splitlines() == ["tile 0", "tile 1", "tile 2"]


def test_an_observer_follows_the_work_of_its_thread_and_nothing_is_printed(capfd):
    seen = []
    with observed_progress(lambda *facts: seen.append(facts)):
        with Progress(3, "Restoring", unit="tile") as progress:
            progress.advance(2)
            progress.advance(1)
        thread = threading.Thread(target=lambda: Progress(1, "elsewhere", unit="tile"))
        thread.start()
        thread.join()
    assert seen == [("Restoring", 0, 3), ("Restoring", 2, 3), ("Restoring", 3, 3)]
    assert capfd.readouterr() == ("", "")


def test_an_observer_can_end_the_work():
    def stop(label, done, total):
        if done == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError), observed_progress(stop), Progress(9, "count", unit="step") as progress:  # noqa: PT012
        for _ in range(9):
            progress.advance()
    assert progress._done == 2
