import os
import signal
import socket
import subprocess
import sys

import pytest
from patience import PATIENCE_S, wait_for

from meta_rl.core.errors import UserError
from meta_rl.runs.lock import RunLock

HOLDER = """
import sys, time
from pathlib import Path
from meta_rl.runs.lock import RunLock
lock = RunLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def held(tmp_path, environment):
    """A process that holds the folder."""
    words = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_folder_has_one_holder_who_is_named(held, tmp_path):
    who = f"is being trained by process {held.pid} on {socket.gethostname()} since 20"
    with pytest.raises(UserError, match=who):
        RunLock(tmp_path)


def test_a_killed_holder_is_no_obstacle(held, tmp_path):
    held.kill()
    held.wait()
    assert f"process {held.pid} " in (tmp_path / "lock").read_text()  # it is left behind

    lock = RunLock(tmp_path)
    assert f"process {os.getpid()} " in (tmp_path / "lock").read_text()
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_is_dropped_is_free(tmp_path):
    RunLock(tmp_path)
    RunLock(tmp_path).release()


def test_many_that_come_and_go_are_never_two_at_a_time(tmp_path, environment):
    script = """
import os, sys, time
from pathlib import Path
from meta_rl.core.errors import UserError
from meta_rl.runs.lock import RunLock
folder, mark = Path(sys.argv[1]), Path(sys.argv[1]).with_name("mark")
held = 0
end = time.monotonic() + 3
while not held or time.monotonic() < end:
    try:
        lock = RunLock(folder)
    except UserError:
        continue
    os.close(os.open(mark, os.O_CREAT | os.O_EXCL))  # fails if another is within
    mark.unlink()
    lock.release()
    held += 1
print(held)
"""
    folder = tmp_path / "run"
    folder.mkdir()
    words = [sys.executable, "-c", script, str(folder)]
    several = [
        subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    counts = [int(process.communicate(timeout=PATIENCE_S)[0]) for process in several]
    assert [process.returncode for process in several] == [0, 0, 0]
    assert all(count > 0 for count in counts)


@pytest.mark.slow
def test_a_run_that_trains_is_neither_resumed_nor_replaced(
    meta_rl, meta_rl_process, small_config, run_at, tmp_path
):
    config = small_config("maml_trpo", meta_iterations=10**6, checkpoint_every=3)
    process = meta_rl_process("train", config)
    run = run_at(tmp_path / "runs" / "small")
    wait_for(lambda: run.told, process)
    before = (run.path / "config.yaml").read_bytes(), (run.path / "environment.txt").read_bytes()

    who = f"runs/small is being trained by process {process.pid} on {socket.gethostname()}"
    resume = ("train", "--resume", "runs/small", "--meta-iterations", 5)
    meta_rl(*resume).fails_with(who, "wait for it, or stop it first")
    meta_rl("train", config, "--overwrite", "--seed", 7).fails_with(who)
    after = (run.path / "config.yaml").read_bytes(), (run.path / "environment.txt").read_bytes()
    assert after == before and process.poll() is None

    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=PATIENCE_S)
    made = run.latest["meta_iterations"]
    assert (run.path / "lock").exists()
    meta_rl("train", "--resume", "runs/small", "--meta-iterations", made + 1).succeeds()
    iterations = [row["meta_iterations"] for row in run.rows]
    assert iterations == [*range(1, made + 2), made + 1]  # each once, and the final evaluation
    assert not (run.path / "lock").exists()
