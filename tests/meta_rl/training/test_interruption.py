import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios

import pytest
from patience import PATIENCE_S, wait_for

SLOW_TO_SAVE = """
import os, sys, time
from meta_rl.runs import checkpoint
save = checkpoint.save
def slow(state, path):
    if state.get("meta_iterations", 0):
        print("SAVING", flush=True)
        while not os.path.exists("go"):
            time.sleep(0.01)
    save(state, path)
checkpoint.save = slow
from meta_rl.commands.cli import main
sys.exit(main(sys.argv[1:]))
"""
"""`meta-rl` on a disk that takes its time: until there is a file `go`."""

SLOW_TO_FINISH = """
import os, sys, time
from meta_rl.runs.sinks.wandb import WandbSink
def slow(self, succeeded=True):
    print("FINISHING", flush=True)
    while not os.path.exists("go"):
        time.sleep(0.01)
WandbSink.finish = slow
from meta_rl.commands.cli import main
sys.exit(main(sys.argv[1:]))
"""
"""`meta-rl` with a network that takes its time: until there is a file `go`."""


@pytest.fixture
def saving(tmp_path, python_process, small_config, run_at):
    """A training that was interrupted and writes its checkpoint, and its run."""
    config = small_config(meta_iterations=10**6, checkpoint_every=10**6)
    process = python_process("-c", SLOW_TO_SAVE, "train", config)
    run = run_at(tmp_path / "runs" / "small")
    wait_for(lambda: run.told > 2, process)
    process.send_signal(signal.SIGINT)
    while "SAVING" not in (line := process.stdout.readline()):
        assert line, process.communicate()
    return process, run


@pytest.mark.slow
def test_a_second_ctrl_c_is_answered_by_a_word_and_the_checkpoint_is_written(saving, tmp_path):
    process, run = saving
    process.send_signal(signal.SIGINT)
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):  # a terminal that closes
        process.send_signal(number)
    assert process.stderr.readline() == (
        "meta-rl: the checkpoint is being written; Ctrl-C once more ends at once and loses it\n"
    )
    (tmp_path / "go").touch()
    _, end = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 130 and end.count("\n") == 1
    made = run.latest["meta_iterations"]
    assert end.startswith(f"meta-rl: stopped after {made} meta-iterations; continue with") and made
    assert not (run.path / "lock").exists()


@pytest.mark.slow
def test_a_third_ctrl_c_ends_at_once(saving, meta_rl):
    process, run = saving
    process.send_signal(signal.SIGINT)
    assert "the checkpoint is being written" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=PATIENCE_S)

    assert (process.returncode, told) == (130, "")
    assert run.latest["meta_iterations"] == 0  # the one before is whole
    meta_rl("train", "--resume", "runs/small", "--meta-iterations", 1).succeeds()


@pytest.fixture
def finishing(python_process, small_config):
    """A short training that was interrupted while it waits for W&B with all its work done."""
    process = python_process("-c", SLOW_TO_FINISH, "train", small_config(meta_iterations=1))
    while "FINISHING" not in (line := process.stdout.readline()):
        assert line, process.communicate()
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == (
        "meta-rl: what was recorded is being completed; Ctrl-C once more ends at once\n"
    )
    return process


@pytest.mark.slow
def test_ctrl_c_while_a_finished_run_waits_for_the_network_loses_no_result(finishing, tmp_path):
    (tmp_path / "go").touch()
    shown, told = finishing.communicate(timeout=PATIENCE_S)
    assert (finishing.returncode, told) == (0, "")
    assert "adaptation to test tasks" in shown and "run folder: runs/small" in shown


@pytest.mark.slow
def test_a_second_one_ends_the_wait(finishing):
    finishing.send_signal(signal.SIGINT)
    assert finishing.wait(timeout=PATIENCE_S) == 130


@pytest.mark.slow
def test_what_a_run_was_started_to_ignore_stays_ignored(
    meta_rl_process, small_config, run_at, tmp_path
):
    process = meta_rl_process(
        *("train", small_config(meta_iterations=30)),
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),  # as nohup does
    )
    run = run_at(tmp_path / "runs" / "small")
    wait_for(lambda: run.told > 0, process)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0 and run.latest["meta_iterations"] == 30


@pytest.mark.slow
def test_a_terminal_or_a_scheduler_reaches_workers_too_and_the_run_is_saved(
    meta_rl, meta_rl_process, small_config, run_at, tmp_path
):
    envs = {"name": "metaworld", "simulator": "gymnasium", "horizon": 20}
    config = small_config(envs=envs, meta_iterations=10**6, copies=1)
    process = meta_rl_process("train", config, "--evaluation.goals", 2, start_new_session=True)
    run = run_at(tmp_path / "runs" / "small")
    wait_for(lambda: run.told > 1, process)
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP):
        os.killpg(process.pid, number)
    _, told = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 130, told
    made = run.latest["meta_iterations"]
    assert made and told.startswith(f"meta-rl: stopped after {made} meta-iterations; continue with")


@pytest.mark.slow
def test_a_terminal_that_is_closed_leaves_a_run_to_resume(
    small_config, environment, run_at, tmp_path, meta_rl
):
    config = small_config(meta_iterations=10**6, checkpoint_every=10**6)
    master, slave = pty.openpty()

    def own_the_terminal():
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        [sys.executable, "-m", "meta_rl", "train", str(config)],
        cwd=tmp_path,
        env=environment | {"TERM": "xterm"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=own_the_terminal,
    )
    os.close(slave)
    run = run_at(tmp_path / "runs" / "small")
    shown = b""
    try:
        while b"env steps/s" not in shown:
            shown += os.read(master, 65536)
    finally:
        os.close(master)
    assert process.wait(timeout=PATIENCE_S) == 130

    made = run.latest["meta_iterations"]
    assert made > 0
    assert [row["meta_iterations"] for row in run.rows][:made] == [*range(1, made + 1)]
    assert not (run.path / "lock").exists()
    meta_rl("train", "--resume", "runs/small", "--meta-iterations", made).succeeds()
