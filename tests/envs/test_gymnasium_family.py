"""Gymnasium's own environments, and some of our own, as tasks that a config describes."""

from importlib.metadata import version
from textwrap import dedent

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec

from agents import random
from envs.gymnasium import Config, build
from envs.gymnasium.environment import VariedEnvironment
from meta_rl.core.errors import UserError
from meta_rl.core.seeding import Streams
from meta_rl.deployment.task_choice import family_task
from meta_rl.rollouts.adaptation import Adaptation
from meta_rl.rollouts.gymnasium.user_env import NamedEnvironment

CPU = torch.device("cpu")
GRAVITY = {"attribute": "gravity", "uniform": [5.0, 15.0]}
POLE = {"attribute": ["length", "polemass_length"], "scale": [0.5, 2.0]}
ENDS = ("min_action", "max_action")
MAPS = [["SFFF", "FHFF", "FFFF", "FFF" + end] for end in "GFH"] + [["SFFG", "FFFF", "FFFF", "FFFF"]]


def family(id_, *vary, **settings):
    return build(Config(id=id_, vary=[*vary], **settings))


def environment(distribution, split="test", number=0):
    """The environment of a task, as a worker holds it."""
    env = distribution._worlds.make("any")
    assert isinstance(env, VariedEnvironment)
    env.assign(numbers(distribution, split, number))
    return env


def numbers(distribution, split="test", number=0):
    return tuple(distribution.tasks(split).params[number].tolist())


def play(env, steps=30, seed=0):
    """What happens from a seed on, under actions that the seed decides."""
    env.action_space.seed(seed)
    seen = [env.reset(seed=seed)[0]]
    for _ in range(steps):
        obs, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        seen += [obs, reward]
        if terminated or truncated:
            break
    return np.concatenate([np.ravel(each) for each in seen])


def test_a_task_sets_its_numbers_and_one_factor_may_scale_several_attributes():
    env = environment(cartpole := family("CartPole-v1", POLE, GRAVITY))
    factor, gravity = numbers(cartpole)
    plain = gymnasium.make("CartPole-v1").unwrapped
    cart = env.unwrapped
    assert cart.gravity == gravity
    assert cart.length == pytest.approx(factor * plain.length)
    assert cart.polemass_length == pytest.approx(factor * plain.polemass_length)


def test_an_environment_behaves_as_one_that_was_made_for_the_task():
    distribution = family("CartPole-v1", POLE, GRAVITY)
    for number in range(3):
        factor, gravity = numbers(distribution, number=number)
        plain = gymnasium.make("CartPole-v1")
        plain.unwrapped.gravity = gravity
        plain.unwrapped.length *= factor
        plain.unwrapped.polemass_length *= factor
        np.testing.assert_array_equal(play(environment(distribution, number=number)), play(plain))


def test_what_earlier_tasks_changed_is_put_back():
    distribution = family(
        "HalfCheetah-v5",
        {"model": "body_mass", "of": ["torso", "fthigh"], "log_scale": [0.3, 3.0]},
        {"model": "dof_damping", "scale": [0.5, 1.5]},
        {"model": "geom_friction[0]", "of": "floor", "uniform": [0.2, 1.0]},
        {"keyword": "ctrl_cost_weight", "uniform": [0.0, 1.0]},
    )
    fresh = environment(distribution, number=1)
    used = environment(distribution, number=0)
    play(used)
    assert not np.array_equal(play(used), play(fresh))
    used.assign(numbers(distribution, number=1))
    np.testing.assert_array_equal(play(used), play(fresh))
    # of nothing but the parts that were named
    plain, model = gymnasium.make("HalfCheetah-v5").unwrapped.model, fresh.unwrapped.model
    changed = [
        model.body(number).name
        for number in range(model.nbody)
        if model.body_mass[number] != plain.body_mass[number]
    ]
    assert changed == ["torso", "fthigh"]
    ratio = model.body("torso").mass / plain.body("torso").mass
    torso, _, friction, _ = numbers(distribution, number=1)
    np.testing.assert_allclose(ratio, torso)
    assert model.geom("floor").friction[0] == friction
    np.testing.assert_array_equal(
        model.geom("floor").friction[1:], plain.geom("floor").friction[1:]
    )
    # and what MuJoCo derives from masses follows
    assert model.body_subtreemass[0] == pytest.approx(sum(model.body_mass))


def test_an_array_that_the_simulator_holds_is_put_back_too():
    distribution = family("Hopper-v5", {"attribute": "model.opt.gravity", "scale": [0.5, 2.0]})
    env = environment(distribution)
    found = []
    for factor in (2.0, 2.0, 1.0):
        env.assign((factor,))
        env.reset(seed=0)
        found.append(float(env.unwrapped.model.opt.gravity[2]))
    assert found == pytest.approx([-19.62, -19.62, -9.81])


def test_an_environment_that_uses_up_what_it_is_given_does_not_take_it_from_others(tmp_path):
    (tmp_path / "pile.py").write_text(PILE)
    pile = {"keyword": "coins", "values": [[1, 2], [3], [4], [5]], "shared": True}
    other = {"keyword": "tables", "integers": [0, 99]}
    distribution = family(f"{tmp_path / 'pile.py'}:Pile", pile, other, horizon=2)
    for _ in range(2):  # worlds of one process
        env = distribution._worlds.make("any")
        env.assign((0.0, 3.0))
        env.reset(seed=0)
        assert [env.step(np.zeros(1, np.float32))[1] for _ in range(2)] == [2, 1]


SHARED = """
import gymnasium, numpy as np
GOAL = [1.0]
class Bandit(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (1,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))
    gains = [2.0]
    def __init__(self): self.goal = GOAL
    def reset(self, *, seed=None, options=None): return np.zeros(1, np.float32), {}
    def step(self, action): return np.zeros(1, np.float32), self.gains[0], False, False, {}
"""


def test_what_a_class_has_is_changed_in_its_own_environment_alone(tmp_path):
    (tmp_path / "shared.py").write_text(SHARED)
    named = f"{tmp_path / 'shared.py'}:Bandit"
    bandit = family(named, {"attribute": "gains[0]", "scale": [0.5, 3]}, horizon=2)
    worlds = [environment(bandit, number=number) for number in (0, 1)]
    paid = [(world.reset(seed=0), world.step(np.zeros(1)))[1][1] for world in worlds]
    assert paid == pytest.approx([2 * numbers(bandit, number=number)[0] for number in (0, 1)])


def test_what_environments_of_a_process_share_is_refused_and_put_back(tmp_path):
    (tmp_path / "shared.py").write_text(SHARED)
    named = f"{tmp_path / 'shared.py'}:Bandit"
    bandit = family(named, {"attribute": "goal[0]", "scale": [0.5, 3]}, horizon=2)
    one = environment(bandit)
    with pytest.raises(UserError, match=r"that all environments of .* share, so each would play"):
        bandit._worlds.make("another")
    one.close()
    again = bandit._worlds.make("another")
    assert again.unwrapped.goal == [1.0]


def test_poses_that_were_a_body_s_own_take_effect():
    foot = {"model": "geom_pos[0]", "of": "foot_geom", "uniform": [-0.3, 0.3]}
    hopper = family("Hopper-v5", foot)
    one, other = (play(environment(hopper, number=number), steps=60) for number in (0, 1))
    assert len(one) != len(other) or not np.array_equal(one, other)


def test_the_horizon_counts_steps_around_all_wrappers():
    pendulum = family(
        "Pendulum-v1",
        {"attribute": "m", "scale": [0.5, 2]},
        horizon=6,
        success="survived",
        wrappers=[{"gymnasium.wrappers:MaxAndSkipObservation": {"skip": 4}}],
    )
    env = environment(pendulum)
    env.reset(seed=0)
    *before, (*_, truncated, info) = [env.step(np.zeros(1, np.float32)) for _ in range(6)]
    assert not any(step[3] for step in before) and truncated and info["success"] == 1


def test_bounded_actions_are_scaled_and_unbounded_ones_are_left():
    pendulum = family("Pendulum-v1", {"attribute": "m", "scale": [0.5, 2]})
    assert pendulum.spec.action_bounds == ((-1.0,), (1.0,))
    ours, plain = environment(pendulum), gymnasium.make("Pendulum-v1")
    plain.unwrapped.m *= pendulum.tasks("test").params[0].item()
    for env in (ours, plain):
        env.reset(seed=3)
    for policy, torque in ((1.0, 2.0), (-0.25, -0.5), (7.0, 2.0)):  # torques lie within 2 N m
        mine = ours.step(np.array([policy], np.float32))[1]
        assert mine == plain.step(np.array([torque], np.float32))[1]


def test_listed_maps_are_tasks_whose_number_is_their_place_in_the_list():
    entry = {"keyword": "desc", "values": MAPS[:2], "test": MAPS[2:3], "validation": MAPS[3:]}
    lake = family("FrozenLake-v1", entry, keywords={"is_slippery": False})
    assert lake.tasks("test").params.tolist() == [[3.0]]  # after the validation split's
    assert lake.tasks("validation").params.tolist() == [[2.0]]
    assert sorted(lake.sample(2, "train", torch.Generator()).params[:, 0].tolist()) == [0.0, 1.0]
    made = environment(lake).unwrapped.desc.astype(str)
    assert ["".join(row) for row in made] == MAPS[2]
    assert lake.spec.observation_size == 16 and lake.spec.action_size == 4
    with pytest.raises(UserError, match=r"5 different train tasks .* but envs.vary gives 2"):
        lake.sample(5, "train", torch.Generator())


def test_a_seed_makes_every_episode_of_a_task_begin_alike():
    distribution = family("CartPole-v1", {"seed": [0, 999]})
    first, second = (environment(distribution, number=number) for number in (0, 1))
    starts = [first.reset(seed=seed)[0] for seed in (1, 2)]
    np.testing.assert_array_equal(*starts)
    assert not np.array_equal(second.reset(seed=1)[0], starts[0])


def test_a_file_s_function_is_called_with_what_varies(tmp_path):
    file = tmp_path / "arena.py"
    file.write_text(ARENA)
    arena = family(f"{file}:make", {"keyword": "goal", "uniform": [-1, 1]}, horizon=5)
    env = environment(arena)
    goal = arena.tasks("test").params[0].item()
    env.reset(seed=0)
    _, reward, _, truncated, _ = env.step(np.zeros(1, np.float32))
    assert reward == pytest.approx(-abs(goal)) and not truncated
    assert [env.step(np.zeros(1, np.float32))[3] for _ in range(4)] == [False] * 3 + [True]


LACKS_PACKAGE = EnvSpec("LacksPackage-v0", "lacking:Lacking", max_episode_steps=5)

ARENA = dedent("""
    def needy(goal): ...

    import gymnasium
    import numpy as np


    class Arena(gymnasium.Env):
        observation_space = gymnasium.spaces.Dict(
            {
                "x": gymnasium.spaces.Box(-9, 9, (1,), np.float64),
                "mode": gymnasium.spaces.Discrete(3),
            }
        )
        action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

        def __init__(self, goal, broken=""):
            self.goal, self.broken = goal, broken

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            if self.broken == "reset":
                raise RuntimeError("no power")
            return self._see(), {}

        def step(self, action):
            reward = float("nan") if self.broken == "nan" else -abs(self.goal)
            return self._see(), reward, False, False, {"score": 1.0}

        def _see(self):
            x = np.zeros(2 if self.broken == "shape" else 1)
            return x if self.broken == "shape" else {"x": x, "mode": 1}


    def make(goal=0.0, broken="", size=None):
        arena = Arena(goal, broken)
        if size is not None:
            arena.observation_space = gymnasium.spaces.Box(-9, 9, (int(size),), np.float64)
        return arena


    def number():
        return 3
""")


ROOM = dedent("""
    import gymnasium
    import numpy as np

    import envs


    class Room(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-9, 9, (1,), np.float64)
        action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

        def __init__(self, door=0.0, draws=False, copies=False):
            self.door, self.draws, self.copies, self.walls = door, draws, copies, np.zeros(2)
            if door == "ajar":
                self.door = door + 1

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            if self.draws:
                self.walls = self.np_random.uniform(size=2)
            if self.copies:
                self.walls = self.walls.copy()
            return self.np_random.uniform(-1, 1, size=1), {}

        def step(self, action):
            return np.array([self.door]), 0.0, True, False, {}
""")


PILE = dedent("""
    import gymnasium
    import numpy as np


    class Pile(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-9, 9, (1,), np.float64)
        action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

        def __init__(self, coins=(), tables=0, ends=None):
            self.coins, self.ends, self.steps = coins, ends, 0
            self.places = np.array([1, 2])

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.steps = 0
            return np.zeros(1), {}

        def step(self, action):
            self.steps += 1
            coin = self.coins.pop() if self.coins else 0
            info = {"won": None if self.steps < 2 else [1, 2]}
            return np.zeros(1), coin, False, self.steps == self.ends, info
""")


def test_what_a_seed_decides_goes_on_in_a_world_that_is_made_anew(tmp_path):
    (tmp_path / "room.py").write_text(ROOM)
    door = {"keyword": "door", "uniform": [-1, 1]}
    env = environment(rooms := family(f"{tmp_path / 'room.py'}:Room", door, horizon=3))

    def lived():
        env.assign(numbers(rooms, number=0))
        seen = [env.reset(seed=0)[0]]
        env.assign(numbers(rooms, number=1))
        return [*seen, env.reset()[0], env.reset()[0]]

    once = lived()
    assert once == lived() and once[1] != once[2]


@pytest.mark.parametrize("name", ["walls", "walls[1]"])
def test_a_reset_that_undoes_the_task_is_told(tmp_path, name):
    (tmp_path / "room.py").write_text(ROOM)
    where = f"{tmp_path / 'room.py'}:Room"
    entry = {"attribute": name, "uniform": [2.0, 3.0]}
    kept = environment(family(where, entry, horizon=3))
    kept.reset(seed=0)
    kept.reset()
    undone = environment(family(where, entry, horizon=3, keywords={"draws": True}))
    with pytest.raises(UserError, match=r"reset\(\) of .* sets it to .* all tasks would be alike"):
        undone.reset(seed=0)


@pytest.mark.parametrize("copies", [False, True])
def test_tasks_reach_what_an_episode_has_replaced(tmp_path, copies):
    (tmp_path / "room.py").write_text(ROOM)
    entry = {"attribute": ["walls[0]", "walls[1]"], "uniform": [2.0, 3.0]}
    where = f"{tmp_path / 'room.py'}:Room"
    env = environment(rooms := family(where, entry, horizon=3, keywords={"copies": copies}))
    for number in range(3):
        env.assign(numbers(rooms, number=number))
        for _ in range(2):
            env.reset(seed=0)
            assert env.unwrapped.walls.tolist() == [*numbers(rooms, number=number)] * 2


def test_a_model_that_a_reset_loads_anew_is_told():
    distribution = family("Hopper-v5", {"model": "body_mass", "of": "torso", "scale": [0.5, 2.0]})
    env = environment(distribution)
    hopper = env.unwrapped
    plain = hopper.reset

    def reset(**keywords):
        hopper.model, hopper.data = hopper._initialize_simulation()
        return plain(**keywords)

    hopper.reset = reset
    with pytest.raises(UserError, match=r"changes 'body_mass' to .*reset\(\) of .* sets it to"):
        env.reset(seed=0)


def test_a_mistake_within_an_environment_is_no_wrong_keyword(tmp_path, monkeypatch):
    (tmp_path / "room.py").write_text(ROOM)
    monkeypatch.syspath_prepend(str(tmp_path))
    room = EnvSpec("Room-v0", entry_point="room:Room", max_episode_steps=3)
    monkeypatch.setitem(gymnasium.registry, "Room-v0", room)
    with pytest.raises(TypeError, match="can only concatenate str"):
        family("Room-v0", {"attribute": "draws", "values": [0, 1, 2]}, keywords={"door": "ajar"})
    with pytest.raises(UserError, match=r"does not take the keywords .* unexpected .* 'dor'"):
        family("Room-v0", {"attribute": "draws", "values": [0, 1, 2]}, keywords={"dor": 1.0})


@pytest.mark.filterwarnings("ignore:.*Using the latest versioned environment")  # Gymnasium's
def test_an_id_without_a_version_means_the_newest():
    cartpole = family("CartPole", GRAVITY)
    assert cartpole.spec.horizon == family("CartPole-v1", GRAVITY).spec.horizon == 500
    assert environment(cartpole).render_mode == "rgb_array"


@pytest.mark.parametrize(
    ("file", "start"),
    [("envs.py", ""), ("rooms.py", ""), ("colorsys.py", "import colorsys as c; c.rgb_to_hsv")],
)
def test_a_file_and_what_lies_beside_it_take_the_place_of_no_other_module(tmp_path, file, start):
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "__init__.py").write_text("raise RuntimeError('not this')")
    (tmp_path / file).write_text(f"{start}\n{ROOM}")
    door = {"keyword": "door", "uniform": [-1, 1]}
    rooms = family(f"{tmp_path / file}:Room", door, horizon=3)
    simulator = rooms.make_env(CPU, workers=1)
    assert simulator.start(rooms.tasks("test")[[0]], 1, 0).shape == (1, 1, 1)
    simulator.close()


def test_files_of_a_task_whose_environment_is_a_path_lie_in_no_other_folder(tmp_path):
    (tmp_path / "rooms.py").write_text(ROOM)
    door = {"keyword": "door", "uniform": [-1, 1]}
    rooms = family(f"{tmp_path / 'rooms.py'}:Room", door, horizon=3)
    assert family_task(rooms, None, "2", "test").file_name == "rooms.py-Room-2"


def test_wrappers_are_put_around_it_and_what_varies_is_found_within(tmp_path):
    (tmp_path / "arena.py").write_text(ARENA)
    arena = family(
        f"{tmp_path / 'arena.py'}:make",
        {"attribute": "goal", "uniform": [-1, 1]},
        horizon=5,
        wrappers=[
            {"gymnasium.wrappers:FilterObservation": {"filter_keys": ["x"]}},
            "gymnasium.wrappers:FlattenObservation",
        ],
    )
    assert arena.spec.observation_size == 1  # without the three of the mode
    env = environment(arena)
    assert env.reset(seed=0)[0].shape == (1,)
    assert env.step(np.zeros(1, np.float32))[1] == pytest.approx(-abs(numbers(arena)[0]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "package"),
    [("minigrid_rl2_ppo", "minigrid"), ("fetch_reach_rl2_ppo", "gymnasium_robotics")],
)
def test_configs_of_extras_train(meta_rl, config, package):
    pytest.importorskip(package)
    small = ["--meta-iterations", 1, "--meta-batch-size", 2, "--copies", 1, "--envs.horizon", 10]
    small += ["--evaluation.goals", 2, "--evaluation.copies", 1, "--tracking.mode", "off"]
    meta_rl("train", config, *small, "--workers", 1, "--threads", 1).succeeds()


@pytest.mark.parametrize(
    ("success", "solved"),
    [
        ("survived", True),
        ("terminated", False),
        ({"episode_return": -6}, True),  # five rewards, none below -1
        ({"episode_return": 0.1}, False),
        ({"info": "score"}, True),
    ],
)
def test_an_episode_is_solved_by_what_the_config_says(tmp_path, success, solved):
    (tmp_path / "arena.py").write_text(ARENA)
    arena = family(
        f"{tmp_path / 'arena.py'}:make",
        {"keyword": "goal", "uniform": [-1, 1]},
        horizon=5,
        success=success,
    )
    assert arena.spec.metrics == ("success",)
    env = environment(arena)
    env.reset(seed=0)
    told = [env.step(np.zeros(1, np.float32))[4]["success"] for _ in range(5)]
    assert max(told) == solved
    if success == {"episode_return": -6}:
        assert told == [0, 0, 0, 0, 1]  # the whole episode's return, not that of its beginning


def test_an_info_that_never_tells_success_is_no_failure_but_a_mistake(tmp_path):
    (tmp_path / "arena.py").write_text(ARENA)
    arena = family(
        f"{tmp_path / 'arena.py'}:make",
        {"keyword": "goal", "uniform": [-1, 1]},
        horizon=2,
        success={"info": "scor"},
    )
    env = environment(arena)
    env.reset(seed=0)
    env.step(np.zeros(1, np.float32))
    with pytest.raises(UserError, match=r"held none.*did you mean 'score'"):
        env.step(np.zeros(1, np.float32))


@pytest.mark.parametrize(("ends", "survived"), [(None, True), (3, True), (2, False)])
def test_who_is_stopped_before_the_horizon_has_not_survived(tmp_path, ends, survived):
    (tmp_path / "pile.py").write_text(PILE)
    tables, keywords = {"keyword": "tables", "integers": [0, 99]}, {"ends": ends}
    settings = {"horizon": 3, "success": "survived", "keywords": keywords}
    env = environment(family(f"{tmp_path / 'pile.py'}:Pile", tables, **settings))
    env.reset(seed=0)
    told = [env.step(np.zeros(1, np.float32)) for _ in range(ends or 3)]
    assert told[-1][3] and told[-1][4]["success"] == survived


def test_an_info_that_is_no_number_is_told(tmp_path):
    (tmp_path / "pile.py").write_text(PILE)
    tables = {"keyword": "tables", "integers": [0, 99]}
    settings = {"horizon": 3, "success": {"info": "won"}}
    env = environment(family(f"{tmp_path / 'pile.py'}:Pile", tables, **settings))
    env.reset(seed=0)
    assert env.step(np.zeros(1, np.float32))[4]["success"] == 0  # None: not yet
    with pytest.raises(UserError, match=r"a number or a truth in info\['won'\], which is \[1, 2\]"):
        env.step(np.zeros(1, np.float32))


def test_a_number_is_not_cut_off_to_fit_into_whole_ones(tmp_path):
    (tmp_path / "pile.py").write_text(PILE)
    with pytest.raises(UserError, match="into an array of whole numbers"):
        family(
            f"{tmp_path / 'pile.py'}:Pile",
            {"attribute": "places[0]", "uniform": [0.0, 9.0]},
            horizon=3,
        )._worlds.make("any").assign((2.7,))


def test_the_horizon_is_the_registered_one_or_the_config_s():
    assert family("Pendulum-v1", {"attribute": "m", "scale": [0.5, 2]}).spec.horizon == 200
    long = family("Pendulum-v1", {"attribute": "m", "scale": [0.5, 2]}, horizon=300)
    assert long.spec.horizon == 300
    env = environment(long)
    env.reset(seed=0)
    ends = [env.step(np.zeros(1, np.float32))[3] for _ in range(300)]
    assert ends == [False] * 299 + [True]


def test_training_draws_new_tasks_unless_it_has_a_number_of_them():
    mass = {"attribute": "m", "scale": [0.5, 2.0]}
    draws = torch.Generator().manual_seed(0)
    fresh = family("Pendulum-v1", mass)
    one, two = (set(fresh.sample(10, "train", draws).params[:, 0].tolist()) for _ in range(2))
    assert not one & two
    few = family("Pendulum-v1", mass, train_tasks=12)
    known = set(few.tasks("train").params[:, 0].tolist())
    assert len(known) == 12
    assert set(few.sample(10, "train", draws).params[:, 0].tolist()) < known
    with pytest.raises(UserError, match="13 tasks are more than the 12 train tasks"):
        few.sample(13, "train", draws)


def test_the_protocol_tells_what_numbers_depend_on():
    mass = {"attribute": "m", "scale": [0.5, 2.0]}
    protocol = family("Pendulum-v1", mass).protocol()
    for other in (
        family("Pendulum-v1", {**mass, "scale": [0.5, 3.0]}),
        family("Pendulum-v1", mass, extrapolate=True),
        family("Pendulum-v1", mass, keywords={"g": 9.0}),
        family("Pendulum-v1", mass, success={"episode_return": -200}),
    ):
        assert other.protocol() != protocol


def test_the_protocol_holds_what_the_user_s_own_files_do(tmp_path):
    door = {"keyword": "door", "uniform": [-1, 1]}

    def sources(folder, text, wrapper=""):
        place = tmp_path / folder
        place.mkdir()
        (place / "room.py").write_text(text)
        (place / "doubled.py").write_text(WRAPPER)
        wrappers = [f"{place / wrapper}:Doubled"] if wrapper else []
        rooms = family(f"{place / 'room.py'}:Room", door, horizon=3, wrappers=wrappers)
        return rooms.protocol()["source"]

    before = sources("a", ROOM)
    assert before.startswith("room.py ") and sources("b", ROOM) == before
    assert sources("c", ROOM.replace("0.0, True", "1.0, True")) != before
    doubled, room = sources("d", ROOM, wrapper="doubled.py").split(", ")
    assert doubled.startswith("doubled.py ") and room == before
    assert "source" not in family("CartPole-v1", GRAVITY).protocol()


WRAPPER = """
import gymnasium


class Doubled(gymnasium.RewardWrapper):
    def reward(self, reward):
        return 2 * reward
"""


def test_the_protocol_holds_the_versions_of_what_simulates():
    pendulum = family("Pendulum-v1", {"attribute": "m", "scale": [0.5, 2.0]}).protocol()
    assert pendulum["gymnasium"] == version("gymnasium") and "mujoco" not in pendulum
    cheetah = family("HalfCheetah-v5", {"model": "body_mass", "scale": [0.5, 2.0]}).protocol()
    assert cheetah["mujoco"] == version("mujoco")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"id": "Pendulm-v1"}, "no environment envs.id Pendulm-v1"),
        ({"id": ""}, "envs.id is empty"),
        ({"id": "LacksPackage-v0"}, "no environment envs.id LacksPackage-v0: install more"),
        ({"id": "ARENA:needy", "horizon": 5}, "cannot be made without keywords: missing a"),
        ({"id": "no_such_module:Thing"}, "cannot import 'no_such_module' of envs.id"),
        ({"id": "nowhere.py:make"}, "no file nowhere.py for envs.id, looked for from /.*; name"),
        ({"id": "ARENA:numbr"}, "no 'numbr' to call"),
        ({"id": "ARENA:number", "horizon": 5, "vary": [{"seed": [0, 99]}]}, "it made int"),
        ({"id": "ARENA:make", "vary": [{"seed": [0, 99]}]}, "set envs.horizon"),
        (
            {"vary": [{"attribute": "mass", "scale": [1, 2]}]},
            r"envs.vary\[0\] changes 'mass', but PendulumEnv has no attribute 'mass'",
        ),
        (
            {"vary": [{"attribute": "render_mode", "scale": [1, 2]}]},
            "scales render_mode, which is 'rgb_array', not a number",
        ),
        (
            {"vary": [{"attribute": "m", "uniform": [1, 2]}, {"attribute": "m", "scale": [1, 2]}]},
            r"envs.vary\[0\] and envs.vary\[1\] change the same attribute m; make them one entry",
        ),
        ({"vary": [{"attribute": [], "scale": [1, 2]}]}, "attribute names nothing to change"),
        ({"vary": [{"seed": [-5, 20]}]}, r"\.seed must begin at 0 or above, got -5"),
        (
            {"id": "Hopper-v5", "vary": [{"attribute": "_healthy_z_range", "scale": [1, 2]}]},
            "scales _healthy_z_range, which is .*, not a number",
        ),
        (
            {"id": "Hopper-v5", "vary": [{"attribute": "model.opt.gravty", "scale": [1, 2]}]},
            "did you mean 'gravity'",
        ),
        ({"vary": [{"attribute": "m[0]", "scale": [1, 2]}]}, "changes 'm.0.', an item of"),
        ({"vary": [{"attribute": "m-x", "scale": [1, 2]}]}, "'m-x', which is no attribute"),
        ({"vary": [{"model": "body_mass", "scale": [1, 2]}]}, "PendulumEnv has no MuJoCo model"),
        ({"vary": [{"keyword": "mass", "uniform": [1, 2]}]}, "does not take the keywords"),
        ({"keywords": {"g": 9}, "vary": [{"keyword": "g", "uniform": [1, 2]}]}, "sets g, which"),
        ({"keywords": ["g"]}, "envs.keywords must hold"),
        ({"success": "terminatd"}, "did you mean 'terminated'"),
        ({"wrappers": "FlattenObservation"}, "envs.wrappers must be a list of names"),
        ({"wrappers": ["FlattenObservation"]}, "must be package.module:Class"),
        ({"wrappers": ["gymnasium.wrappers:Flaten"]}, "gymnasium.wrappers has no Flaten; name"),
        ({"wrappers": [".mine:Flaten"]}, "a module's whole name begins with no dot"),
        ({"wrappers": ["gymnasium.wrappers:ClipReward"]}, "ClipReward refuses: Both"),
        (
            {"wrappers": [{"gymnasium.wrappers:ResizeObservation": {"shape": [2, 2]}}]},
            "ResizeObservation refuses: .*requires a 2D or 3D image",
        ),
        (
            {
                "id": "CartPole-v1",
                "vary": [GRAVITY],
                "wrappers": [{"gymnasium.wrappers:RescaleAction": dict.fromkeys(ENDS, 1.0)}],
            },
            "RescaleAction refuses: .*requires a Box action space",
        ),
        (
            {"wrappers": [{"gymnasium.wrappers:TimeLimit": {"steps": 3}}]},
            "gives gymnasium.wrappers:TimeLimit steps: ",
        ),
        ({"wrappers": ["builtins:id"]}, "makes a int and no environment"),
        (
            {"wrappers": ["gymnasium.wrappers:NormalizeObservation"]},
            "running statistics go on from task to task",
        ),
        ({"horizon": 0}, "envs.horizon must be at least 1"),
        ({"test_tasks": 0}, "envs.test_tasks must be at least 1"),
        (
            {"id": "HalfCheetah-v5", "vary": [{"model": "body_mas", "scale": [1, 2]}]},
            "did you mean 'body_mass'",
        ),
        (
            {"id": "HalfCheetah-v5", "vary": [{"model": "body_mass[0]", "scale": [1, 2]}]},
            "a row of it has 1 numbers",
        ),
        (
            {"id": "Hopper-v5", "vary": [{"model": "geom_size[0]", "scale": [1, 2]}]},
            "which MuJoCo derives from other fields",
        ),
        (
            {"id": "Hopper-v5", "vary": [{"model": "body_gravcomp", "uniform": [0, 1]}]},
            "no effect in a model that was compiled without any",
        ),
        (
            {"id": "Hopper-v5", "vary": [{"model": "actuator_forcerange[0]", "uniform": [0, 1]}]},
            "no effect where actuator_forcelimited is 0",
        ),
        (
            {
                "id": "HalfCheetah-v5",
                "vary": [{"model": "dof_damping", "of": "bthig", "scale": [1, 2]}],
            },
            r"names 'bthig', which the model does not have; did you mean 'bthigh'",
        ),
    ],
)
def test_a_config_that_cannot_be_played_is_told_in_a_sentence(
    tmp_path, monkeypatch, settings, message
):
    (tmp_path / "arena_of_errors.py").write_text(ARENA)
    mass = {"attribute": "m", "scale": [0.5, 2.0]}
    settings = {"id": "Pendulum-v1", "vary": [mass]} | settings
    settings["id"] = settings["id"].replace("ARENA", str(tmp_path / "arena_of_errors.py"))
    (tmp_path / "lacking.py").write_text(
        "import gymnasium; raise gymnasium.error.DependencyNotInstalled('install more')"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(gymnasium.registry, "LacksPackage-v0", LACKS_PACKAGE)
    with pytest.raises(UserError, match=message):
        build(Config(**settings))


def test_a_keyword_that_changes_a_space_is_refused_where_the_task_is_assigned(tmp_path):
    (tmp_path / "arena.py").write_text(ARENA)
    sizes = {"keyword": "size", "values": [1, 3, 2], "shared": True}
    arena = family(
        f"{tmp_path / 'arena.py'}:make",
        sizes,
        {"keyword": "goal", "uniform": [-1, 1]},
        horizon=2,
    )
    env = arena._worlds.make("any")
    with pytest.raises(UserError, match="one policy needs one space"):
        env.assign((2.0, 0.0))


@pytest.mark.parametrize(
    ("broken", "message"),
    [("reset", "no power"), ("shape", "observation_space"), ("nan", "reward is not finite")],
)
def test_an_environment_that_breaks_is_told_by_the_collector(tmp_path, broken, message):
    (tmp_path / "arena.py").write_text(ARENA)
    arena = family(
        f"{tmp_path / 'arena.py'}:make",
        {"keyword": "goal", "uniform": [-1, 1]},
        horizon=2,
        keywords={"broken": broken},
    )
    collector = arena.make_collector(CPU, 1)
    agent = random.build(random.Config(), arena.spec, CPU, 0)
    try:
        with pytest.raises(UserError, match=message):
            Adaptation(agent, collector, arena.tasks("test")[[0]], 1, Streams(0, CPU)).play()
    finally:
        collector.close()


def test_a_world_can_be_drawn():
    pendulum = family("Pendulum-v1", {"attribute": "m", "scale": [0.5, 2]})
    simulator = pendulum.make_env(CPU, workers=1)
    try:
        simulator.start(pendulum.tasks("test")[[0]], 1, 0)
        picture = simulator.draw()
    finally:
        simulator.close()
    assert picture.ndim == 3 and picture.dtype == np.uint8 and picture.std() > 0


def test_an_id_that_a_policy_adapts_to_can_be_drawn():
    seen = gymnasium.spaces.Box(-9.0, 9.0, (3,), np.float32)
    space = gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32)
    env = NamedEnvironment("Pendulum-v1", seen, space).make("any")
    assert env.render_mode == "rgb_array"
    env.close()
