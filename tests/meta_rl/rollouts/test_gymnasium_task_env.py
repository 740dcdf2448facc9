import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from patience import PATIENCE_S

from meta_rl.core.errors import UserError
from meta_rl.core.types import EnvSpec, Task, Tasks
from meta_rl.rollouts.gymnasium import task_env as gymnasium_env
from meta_rl.rollouts.gymnasium.task_env import GymnasiumTaskEnv, NonFiniteAction, WorkerDied

sys.path.append(str(Path(__file__).parent))  # workers get this path and import the worlds by it

from gymnasium_worlds import LedgerFamily

SPEC = EnvSpec.box(observation_size=4, action_low=(-1.0,) * 2, action_high=(1.0,) * 2, horizon=5)
CPU = torch.device("cpu")


@pytest.fixture
def make_env(monkeypatch):
    """Make environments that are closed after the test."""
    # What a worker that ends is said to have done must not hang on how fast it ends.
    monkeypatch.setattr(gymnasium_env, "FAREWELL_S", PATIENCE_S)
    made = []

    def make(workers=2, family=None):
        made.append(GymnasiumTaskEnv(family or LedgerFamily(), SPEC, CPU, workers))
        return made[-1]

    yield make
    for env in made:
        env.close()
    assert gone([process.pid for process in multiprocessing.active_children()])


def tasks_of(*names_and_ends, first_index=1):
    """Stack tasks of the given names, numbered from `first_index`, that end at the given steps."""
    return Tasks.stack(
        [
            Task("ledger", name, index, (float(end),))
            for index, (name, end) in enumerate(names_and_ends, start=first_index)
        ]
    )


def play(env, tasks, copies, seed, steps):
    """Return all that a rollout with resets brings, the serial numbers of environments aside."""
    generator = torch.Generator().manual_seed(0)
    seen = [env.start(tasks, copies, seed)]
    for _ in range(steps):
        step = env.step(torch.rand(len(tasks), copies, 2, generator=generator))
        seen += [step.next_obs, step.reward, step.terminated, step.truncated]
        seen += [step.metrics["second_action"], env.reset_ended()]
    return seen


def gone(pids, patience_s=PATIENCE_S):
    """Return whether all processes end within some time."""
    deadline = time.monotonic() + patience_s
    while any(is_alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def is_alive(pid):
    multiprocessing.active_children()  # reaps those of our own that have ended
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"  # an orphan that nobody reaps, as in some containers, has ended


def shared_blocks():
    """How much memory that is shared with workers this process has open, or mapped."""
    gc.collect()
    return Path("/proc/self/maps").read_text().count("/memfd:meta_rl")


def test_every_number_arrives_in_its_own_field_and_world(make_env):
    env = make_env()
    tasks = tasks_of(("ledger", 0), ("ledger", 0), ("ledger", 0))

    obs = env.start(tasks, copies=2, seed=0)
    action = torch.arange(12.0).reshape(3, 2, 2) / 100
    step = env.step(action)

    index = torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    torch.testing.assert_close(obs[..., 0], index)
    torch.testing.assert_close(obs[..., 2], torch.zeros(3, 2))
    torch.testing.assert_close(step.next_obs[..., 0], index)
    torch.testing.assert_close(step.next_obs[..., 2], torch.ones(3, 2))
    torch.testing.assert_close(step.reward, 100 * index + 10 + action[..., 0])
    torch.testing.assert_close(step.metrics["second_action"], action[..., 1])
    torch.testing.assert_close(step.metrics["never_reported"], torch.zeros(3, 2))
    assert not step.terminated.any()
    assert not step.truncated.any()
    assert len(obs[..., 3].unique()) == 6  # every world has noise of its own


def test_next_obs_is_the_true_successor_and_a_reset_touches_ended_worlds_only(make_env):
    env = make_env()
    env.start(tasks_of(("ledger", 1), ("ledger", 0), ("ledger", 2)), copies=1, seed=0)
    action = torch.zeros(3, 1, 2)

    step = env.step(action)
    assert step.terminated.flatten().tolist() == [True, False, False]
    assert step.next_obs[:, 0, 1:3].tolist() == [[1, 1], [1, 1], [1, 1]]  # episode, step

    obs = env.reset_ended()
    assert obs[:, 0, 1:3].tolist() == [[2, 0], [1, 1], [1, 1]]
    torch.testing.assert_close(obs[1:], step.next_obs[1:])
    assert step.next_obs[:, 0, 1:3].tolist() == [[1, 1], [1, 1], [1, 1]]  # not overwritten

    step = env.step(action)
    assert step.terminated.flatten().tolist() == [True, False, True]


def test_a_reset_without_ended_worlds_returns_the_last_observations(make_env):
    env = make_env(workers=1)
    first = env.start(tasks_of(("ledger", 0)), copies=2, seed=0)
    assert env.reset_ended() is first
    step = env.step(torch.zeros(1, 2, 2))
    assert env.reset_ended() is step.next_obs


def test_an_episode_is_truncated_at_the_horizon_unless_it_terminates_there(make_env):
    env = make_env(workers=1)
    env.start(tasks_of(("ledger", 0), ("ledger", 5)), copies=1, seed=0)
    for _ in range(SPEC.horizon - 1):
        step = env.step(torch.zeros(2, 1, 2))
        assert not step.truncated.any()
    step = env.step(torch.zeros(2, 1, 2))
    assert step.truncated.flatten().tolist() == [True, False]
    assert step.terminated.flatten().tolist() == [False, True]


def test_an_ended_world_waits_with_zero_reward_until_it_is_reset(make_env):
    env = make_env(workers=1)
    env.start(tasks_of(("ledger", 1)), copies=1, seed=0)
    ended = env.step(torch.ones(1, 1, 2))
    waiting = env.step(torch.ones(1, 1, 2))
    torch.testing.assert_close(waiting.next_obs, ended.next_obs)
    assert waiting.terminated.all()
    assert waiting.reward.item() == 0
    assert waiting.metrics["second_action"].item() == 0
    assert ended.reward.item() == 111
    assert env.reset_ended()[0, 0, 1] == 2


def test_results_do_not_depend_on_the_number_of_workers_or_on_history(make_env):
    tasks = tasks_of(("ledger", 3), ("other", 0), ("ledger", 0))
    one, two = make_env(workers=1), make_env(workers=2)

    expected = play(one, tasks, copies=3, seed=7, steps=8)
    torch.testing.assert_close(play(two, tasks, 3, 7, 8), expected, rtol=0, atol=0)

    play(two, tasks_of(("other", 2), ("ledger", 1)), copies=2, seed=1, steps=3)
    torch.testing.assert_close(play(two, tasks, 3, 7, 8), expected, rtol=0, atol=0)
    other_seed = play(two, tasks, 3, 8, 1)
    assert not torch.equal(other_seed[0], expected[0])


def test_a_worlds_chance_depends_on_its_task_and_copy_and_not_on_other_tasks(make_env):
    tasks = tasks_of(("ledger", 0), ("other", 0), ("ledger", 0))
    env = make_env(workers=1)
    together = env.start(tasks, copies=3, seed=7)[..., 3].clone()
    assert together.unique().numel() == 9
    for m in range(3):
        assert torch.equal(env.start(tasks[[m]], copies=3, seed=7)[0, :, 3], together[m])
    assert env.start(tasks[[0, 0]], copies=3, seed=7)[..., 3].unique().numel() == 6


def test_a_new_start_reuses_environments_and_keeps_no_more_than_were_ever_needed(make_env):
    env = make_env(workers=1)

    def serials(tasks, copies):
        env.start(tasks, copies, seed=0)
        step = env.step(torch.zeros(len(tasks), copies, 2))
        return step.metrics["serial"].flatten().int().tolist()

    assert serials(tasks_of(("ledger", 0), ("other", 0)), 2) == [1, 2, 3, 4]
    assert sorted(serials(tasks_of(("other", 0), ("ledger", 0), first_index=8), 2)) == [1, 2, 3, 4]
    assert sorted(serials(tasks_of(("ledger", 0), ("ledger", 0)), 1)) == [1, 2]  # 3, 4 are idle
    assert sorted(serials(tasks_of(("other", 0)), 2)) == [3, 4]
    # four ledgers are two more than exist, so both others have to go
    assert sorted(serials(tasks_of(("ledger", 0)), 4)) == [1, 2, 5, 6]
    assert sorted(serials(tasks_of(("other", 0)), 1)) == [7]


def test_worlds_may_become_more_than_the_workers_that_run(make_env):
    env = make_env(workers=2)
    for copies in (1, 5, 1, 3):
        obs = env.start(tasks_of(("ledger", 0)), copies, seed=0)
        assert obs.shape == (1, copies, 4)
        step = env.step(torch.zeros(1, copies, 2))
        torch.testing.assert_close(step.reward, torch.full((1, copies), 110.0))


def test_actions_are_clipped_to_the_bounds(make_env):
    env = make_env(workers=1)
    env.start(tasks_of(("ledger", 0)), copies=2, seed=0)
    action = torch.tensor([[[9.0, -9.0], [0.5, -0.5]]])
    step = env.step(action)
    torch.testing.assert_close(step.reward, torch.tensor([[111.0, 110.5]]))
    torch.testing.assert_close(step.metrics["second_action"], torch.tensor([[-1.0, -0.5]]))
    assert action.max() == 9  # the agent's own tensor is left alone


def test_a_non_finite_action_names_its_tasks_before_any_world_is_stepped(make_env):
    env = make_env()
    env.start(tasks_of(("ledger", 0), ("other", 0), ("ledger", 0)), copies=2, seed=0)
    action = torch.zeros(3, 2, 2)
    action[1, 0, 1] = float("nan")
    action[2, 1, 0] = float("inf")

    with pytest.raises(NonFiniteAction, match=r"2 of 6 worlds.*other:2, ledger:3;.*inner_lr"):
        env.step(action)

    step = env.step(torch.zeros(3, 2, 2))
    torch.testing.assert_close(step.next_obs[..., 2], torch.ones(3, 2))


def test_a_reward_of_nan_passes_through(make_env):
    env = make_env(workers=1)
    env.start(tasks_of(("rewards-nan", 0)), copies=1, seed=0)
    assert env.step(torch.zeros(1, 1, 2)).reward.isnan().all()


def test_a_dict_observation_is_flattened(make_env):
    env = make_env(workers=1)
    env.start(tasks_of(("observes-dict", 0)), copies=1, seed=0)
    step = env.step(torch.zeros(1, 1, 2))
    assert step.next_obs[0, 0, :3].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("observes-more", "observes 5 numbers, but the family's spec says observation_size 4"),
        ("acts-discretely", r"takes actions in Discrete\(2\), but the family's spec says Box"),
    ],
)
def test_spaces_other_than_promised_are_a_user_error(make_env, name, message):
    with pytest.raises(UserError, match=message):
        make_env(workers=1).start(tasks_of((name, 0)), copies=1, seed=0)


def test_an_exception_in_an_environment_names_task_worker_and_cause(make_env):
    env = make_env()
    env.start(tasks_of(("ledger", 0), ("raises", 0)), copies=2, seed=0)
    pids = [process.pid for process in multiprocessing.active_children()]
    env.step(torch.zeros(2, 2, 2))

    with pytest.raises(WorkerDied) as caught:
        env.step(torch.zeros(2, 2, 2))

    message = str(caught.value)
    assert any(f"environment worker 1 (pid {pid}) exited with code 1" in message for pid in pids)
    assert "while stepping raises:2, copy 0: ValueError: the arm fell off (gymnasium_w" in message
    assert message.endswith("; mend the environment")
    assert "Traceback" in caught.value.__notes__[0]
    assert gone(pids)


def test_a_killed_worker_is_noticed_and_leaves_nothing_behind(make_env):
    shared_before = shared_blocks()
    env = make_env()
    env.start(tasks_of(("ledger", 0), ("kills-itself", 0)), copies=1, seed=0)
    pids = [process.pid for process in multiprocessing.active_children()]
    env.step(torch.zeros(2, 1, 2))

    with pytest.raises(WorkerDied, match=r"worker 1 .*killed by SIGKILL.*kills-itself:2, copy 0;"):
        env.step(torch.zeros(2, 1, 2))

    assert gone(pids)
    assert shared_blocks() == shared_before
    with pytest.raises(RuntimeError, match="start"):
        env.step(torch.zeros(2, 1, 2))
    obs = env.start(tasks_of(("ledger", 0)), copies=2, seed=0)  # and it can begin anew
    assert obs.shape == (1, 2, 4)


def test_a_worker_killed_between_steps_is_noticed_at_the_next(make_env):
    env = make_env()
    env.start(tasks_of(("ledger", 0)), copies=2, seed=0)
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    with pytest.raises(WorkerDied, match=r"SIGKILL.*fewer workers"):
        env.step(torch.zeros(1, 2, 2))


def outcome_of(script):
    """Run a program that finds what these tests import."""
    return subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )


def test_workers_leave_ctrl_c_to_the_parent_and_end_when_it_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(
            """
            import multiprocessing, os, signal, sys
            import torch
            from gymnasium_worlds import LedgerFamily
            from meta_rl.rollouts.gymnasium.task_env import GymnasiumTaskEnv
            from meta_rl.core.types import EnvSpec, Task, Tasks

            if __name__ == "__main__":
                spec = EnvSpec.box(4, (-1.0,) * 2, (1.0,) * 2, 5)
                env = GymnasiumTaskEnv(LedgerFamily(), spec, torch.device("cpu"), 2)
                env.start(Tasks.stack([Task("ledger", "ledger", 0, (0.0,))]), 2, 0)
                pids = [process.pid for process in multiprocessing.active_children()]
                for pid in pids:
                    os.kill(pid, signal.SIGINT)
                env.step(torch.zeros(1, 2, 2))
                print(*pids, flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
            """
        )
    )
    ended = outcome_of(script)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    pids = [int(pid) for pid in ended.stdout.split()]
    assert len(pids) == 2
    assert gone(pids)


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("", 0),  # without `close`
        ("env._tell(env._workers, STEP); os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("signal.alarm(1); env.step(torch.zeros(1, 2, 2))", -signal.SIGINT),  # interrupted twice
    ],
)
def test_a_program_that_ends_anyhow_leaves_no_worker_that_hangs(tmp_path, ending, code):
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import multiprocessing, os, signal
            import torch
            from gymnasium_worlds import LedgerFamily
            from meta_rl.rollouts.gymnasium.task_env import STEP, GymnasiumTaskEnv
            from meta_rl.core.types import EnvSpec, Task, Tasks

            def interrupt(number, frame):
                signal.signal(signal.SIGALRM, signal.default_int_handler)
                signal.setitimer(signal.ITIMER_REAL, 0.5)  # again, while workers are waited for
                raise KeyboardInterrupt

            if __name__ == "__main__":
                signal.signal(signal.SIGALRM, interrupt)
                spec = EnvSpec.box(4, (-1.0,) * 2, (1.0,) * 2, 5)
                env = GymnasiumTaskEnv(LedgerFamily(), spec, torch.device("cpu"), 2)
                env.start(Tasks.stack([Task("hangs", "hangs", 0, (0.0,))]), 2, 0)
                env.step(torch.zeros(1, 2, 2))
                print(*(process.pid for process in multiprocessing.active_children()), flush=True)
                {ending}
            """
        )
    )
    ended = outcome_of(script)
    pids = [int(pid) for pid in ended.stdout.split()]
    assert len(pids) == 2 and gone(pids)
    assert ended.returncode == code, ended.stderr


@pytest.mark.parametrize("name", ["has-helper", "has-child"])
def test_processes_that_an_environment_starts_end_when_it_ends_them(make_env, name):
    env = make_env(workers=1)
    obs = env.start(tasks_of((name, 0)), copies=1, seed=0)
    pid = int(obs[0, 0, 0])
    assert is_alive(pid)
    env.close()
    assert gone([pid])


def test_an_exchange_that_ctrl_c_interrupts_twice_is_not_misread_later(make_env, monkeypatch):
    env = make_env()
    tasks = tasks_of(("ledger", 0))
    env.start(tasks, copies=2, seed=0)
    with monkeypatch.context() as patch:
        patch.setattr(gymnasium_env.connection, "wait", raise_keyboard_interrupt)
        with pytest.raises(KeyboardInterrupt):
            env.step(torch.zeros(1, 2, 2))
    assert env.start(tasks, copies=2, seed=0)[0, :, 2].tolist() == [0, 0]
    assert env.step(torch.zeros(1, 2, 2)).next_obs[0, :, 2].tolist() == [1, 1]


def raise_keyboard_interrupt(*args, **kwargs):
    raise KeyboardInterrupt


def test_a_family_that_cannot_be_pickled_and_no_workers_are_user_errors():
    family = LedgerFamily(metric_names=lambda: ())
    with pytest.raises(UserError, match="LedgerFamily cannot be sent to worker processes"):
        GymnasiumTaskEnv(family, SPEC, CPU, workers=1)
    with pytest.raises(UserError, match="workers must be at least 1, got 0"):
        GymnasiumTaskEnv(LedgerFamily(), SPEC, CPU, workers=0)


def test_the_module_of_a_worker_does_not_import_torch():
    imports = "import sys, meta_rl.rollouts.gymnasium.worker, envs.metaworld.gymnasium_face"
    code = f"{imports}; print('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.strip() == "False"


def test_the_first_world_is_drawn_by_its_environment(make_env):
    env = make_env()
    env.start(tasks_of(("draws", 0), ("draws", 0), first_index=7), copies=2, seed=0)

    picture = env.draw()
    step = env.step(torch.zeros(2, 2, 2))

    assert picture.shape == (4, 6, 3) and (picture == 7).all()
    torch.testing.assert_close(step.next_obs[:, 0, 2], torch.ones(2))  # the pipe is in order


def test_the_first_world_may_be_another_worker_s_than_the_first(make_env):
    env = make_env(workers=2)
    env.start(tasks_of(("draws", 0), ("draws", 0)), copies=1, seed=0)
    env.start(tasks_of(("draws", 0), first_index=7), copies=1, seed=0)
    assert (env.draw() == 7).all()


def test_an_environment_without_pictures_is_said_to(make_env):
    env = make_env()
    env.start(tasks_of(("ledger", 0)), copies=1, seed=0)

    with pytest.raises(UserError, match=r"'ledger' cannot be drawn: .*render_mode='rgb_array'"):
        env.draw()


@pytest.mark.parametrize(
    ("name", "gives"),
    [("draws-grey", r"uint8 of shape \(4, 6\)"), ("draws-fractions", r"float64 of shape")],
)
def test_pictures_that_no_film_takes_are_told_at_the_first(make_env, name, gives):
    env = make_env()
    env.start(tasks_of((name, 0)), copies=1, seed=0)

    with pytest.raises(UserError, match=rf"'{name}' cannot be filmed: .* array of {gives}"):
        env.draw()


FIRST_CHILD = """
import multiprocessing, time
from pathlib import Path
from meta_rl.rollouts.gymnasium.processes import FOR_THE_PARENT, light_children

if __name__ == "__main__":
    with light_children(needs_main=False):
        child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=[60])
        child.start()
    status = Path(f"/proc/{child.pid}/status").read_text()
    (blocked,) = (int(line.split()[1], 16) for line in status.splitlines() if "SigBlk" in line)
    child.kill()
    assert all(blocked >> (number - 1) & 1 for number in FOR_THE_PARENT), hex(blocked)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_the_first_worker_of_a_process_begins_with_the_parents_signals_blocked(
    python_process, tmp_path
):
    # Before its first process Python starts one of its own, and unblocks signals when it has.
    script = tmp_path / "first_child.py"
    script.write_text(FIRST_CHILD)
    process = python_process(script)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
