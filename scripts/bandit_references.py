"""Measures classical players on the held-out bandits and MDPs that agents are measured on.

    python scripts/bandit_references.py results/bandit_references.json [--settings bandit_5x10 ...]

Settings of players (ε, the width of UCB1, the samples of OPSRL, ...) are chosen on the validation
split. Each player then plays the test split, with the worlds' chance of `meta-rl evaluate`. An
interval is the 95 % one of the mean over tasks, whose copies are averaged first.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import _bandit_players as bandit_players
import _mdp_players as mdp_players
import numpy as np
import torch
import tyro
from _entry import read_figures, run_script, write_figures
from numpy.typing import NDArray

from envs import bandits, tabular_mdp
from meta_rl.core.errors import UserError
from meta_rl.core.protocols import Split
from meta_rl.core.seeding import TaskStreams
from meta_rl.core.types import Tasks

CPU = torch.device("cpu")
SMALL = 60
"""Arms times pulls up to which the best player of all is found by dynamic programming."""

SETTING = re.compile(r"bandit_\d+x\d+|tabular_mdp_\d+")
"""What can be measured."""

Returns: TypeAlias = NDArray[np.float64]
"""What a trial earned, for each task and copy."""


@dataclass(frozen=True)
class Args:
    """Measure classical players on held-out bandits and MDPs."""

    output: Annotated[Path, tyro.conf.Positional]
    """JSON file to write."""
    settings: tuple[str, ...] = ("bandit_5x10", "bandit_5x100", "tabular_mdp_10")
    """Settings to measure: bandit_ARMSxPULLS or tabular_mdp_EPISODES."""
    copies: int = 10
    """Trials of each bandit, at least 1."""
    mdp_copies: int = 2
    """Trials of each MDP, at least 1."""
    test_tasks: int = 1000
    """Held-out tasks, at least 2."""
    seed: int = 0
    """Seed of all chance in worlds and players."""


def world_seed(seed: int, stage: int) -> int:
    """Return the seed of the worlds in an evaluation's stage."""
    return TaskStreams(seed, CPU, f"evaluation/{stage}/learning").env_seed()


def as_action(choice: NDArray[np.int64], shape: tuple[int, int], options: int) -> torch.Tensor:
    """Return choices of all worlds as one-hots."""
    return torch.nn.functional.one_hot(torch.from_numpy(choice).view(shape), options).float()


def play_bandits(
    player: bandit_players.Player, family: bandits.Bandits, tasks: Tasks, copies: int, seed: int
) -> Returns:
    """Return what a player earns with each bandit, (M, N)."""
    horizon, arms = family.config.horizon, family.config.arms
    chance = np.random.default_rng(seed)
    env = family.make_env(CPU, 1)
    env.start(tasks, copies, world_seed(seed, 0))
    shape = len(tasks), copies
    wins, losses = (np.zeros((len(tasks) * copies, arms)) for _ in range(2))
    world = np.arange(len(wins))
    for pull in range(horizon):
        arm = bandit_players.pick(player(wins, losses, pull, chance), chance)
        reward = env.step(as_action(arm, shape, arms)).reward.flatten().numpy()
        wins[world, arm] += reward
        losses[world, arm] += 1 - reward
    return wins.sum(1).reshape(shape)


def play_mdps(
    player: mdp_players.Player,
    family: tabular_mdp.TabularMDPs,
    tasks: Tasks,
    copies: int,
    seed: int,
    episodes: int,
) -> Returns:
    """Return what a player earns in each MDP in so many episodes, (M, N)."""
    config = family.config
    chance = np.random.default_rng(seed)
    env = family.make_env(CPU, 1)
    shape = len(tasks), copies
    worlds = len(tasks) * copies
    belief = mdp_players.Belief(worlds, config.states, config.actions)
    total, world = np.zeros(worlds), np.arange(worlds)
    for episode in range(episodes):
        obs = env.start(tasks, copies, world_seed(seed, episode))
        scores = player.plan(belief, config.horizon, chance)
        for score in scores:
            state = obs.argmax(-1).flatten().numpy()
            explores = chance.random((worlds, 1)) < player.epsilon
            action = bandit_players.pick(np.where(explores, 0.0, score[world, state]), chance)
            step = env.step(as_action(action, shape, config.actions))
            reward = step.reward.flatten().double().numpy()
            belief.learn(state, action, reward, step.next_obs.argmax(-1).flatten().numpy())
            total += reward
            obs = step.next_obs
    return total.reshape(shape)


Candidates: TypeAlias = Mapping[str, Mapping[float | None, Any]]
"""Players by name, each with the settings to choose from."""


def bandit_candidates(arms: int, pulls: int, tasks: Tasks, copies: int) -> Candidates:
    """Return the players of bandits."""
    probability = tasks.params.numpy().repeat(copies, 0)
    epsilons = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3)
    return {
        "random": {None: bandit_players.random},
        "epsilon_greedy": {each: bandit_players.epsilon_greedy(each) for each in epsilons},
        "greedy": {None: bandit_players.epsilon_greedy(0.0)},
        "ucb1": {each: bandit_players.ucb1(each) for each in (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.4)},
        "thompson": {None: bandit_players.thompson},
        "gittins_discounted": {None: bandit_players.gittins(1 - 1 / pulls, pulls)},
        "gittins": {None: bandit_players.finite_gittins(pulls)},
        "best_arm": {None: bandit_players.best_arm(probability)},
    }


def mdp_candidates(states: int, tasks: Tasks, copies: int) -> Candidates:
    """Return the players of MDPs."""
    reward, transition = (
        table.repeat_interleave(copies, 0).numpy()
        for table in tabular_mdp.tables(tasks.params, states)
    )
    return {
        "random": {None: mdp_players.Random()},
        "epsilon_greedy": {e: mdp_players.Greedy(epsilon=e) for e in (0.0, 0.05, 0.1, 0.2)},
        "greedy": {None: mdp_players.Greedy()},
        "psrl": {None: mdp_players.PosteriorSampling()},
        "opsrl": {k: mdp_players.PosteriorSampling(samples=k) for k in (5, 10, 20, 40)},
        "ucrl2": {w: mdp_players.UCRL2(w) for w in (0.03, 0.1, 0.2, 0.3, 0.5)},
        "beb": {b: mdp_players.Greedy(bonus=b) for b in (0.5, 1.0, 2.0, 3.0, 5.0)},
        "optimum": {None: mdp_players.Oracle(reward, transition)},
    }


def mean_and_interval(returns: Returns) -> dict[str, float]:
    """Return the mean over tasks and the ends of its 95 % interval."""
    by_task = returns.mean(1)
    half = 1.96 * by_task.std(ddof=1) / np.sqrt(len(by_task))
    mean = by_task.mean()
    ends = {"mean": mean, "low": mean - half, "high": mean + half}
    return {name: round(float(value), 3) for name, value in ends.items()}


def measured(
    candidates: Callable[[Tasks], Candidates],
    play: Callable[[Any, Tasks], Returns],
    tasks: Callable[[Split], Tasks],
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each player with its return on the test split, its setting chosen on validation."""
    chosen_on, test = tasks("validation"), tasks("test")
    by_name, tested = candidates(chosen_on), candidates(test)
    for name, options in by_name.items():
        setting = next(iter(options))
        if len(options) > 1:
            setting = max(options, key=lambda each: play(options[each], chosen_on).mean())
        found = mean_and_interval(play(tested[name][setting], test))
        yield name, found | ({} if setting is None else {"setting": setting})


def measure(setting: str, args: Args) -> dict[str, Any]:
    """Return what every player earns in one setting."""
    kind, _, size = setting.rpartition("_")
    extra: dict[str, float] = {}
    if kind == "bandit":
        arms, pulls = map(int, size.split("x"))
        config = bandits.Config(arms=arms, horizon=pulls, test_tasks=args.test_tasks)
        family = bandits.build(config)
        protocol = family.protocol()
        copies = args.copies
        rows = measured(
            lambda tasks: bandit_candidates(arms, pulls, tasks, copies),
            lambda player, tasks: play_bandits(player, family, tasks, copies, args.seed),
            family.tasks,
        )
        if arms * pulls <= SMALL:
            extra["bayes_optimum"] = round(bandit_players.bayes_optimum(arms, pulls), 3)
    else:
        mdps = tabular_mdp.build(tabular_mdp.Config(test_tasks=args.test_tasks))
        protocol = mdps.protocol()
        copies = args.mdp_copies
        rows = measured(
            lambda tasks: mdp_candidates(mdps.config.states, tasks, copies),
            lambda player, tasks: play_mdps(player, mdps, tasks, copies, args.seed, int(size)),
            mdps.tasks,
        )
    players = {}
    for name, row in rows:
        players[name] = row
        print(f"{setting:16} {name:20} {row}", flush=True)
    return {"protocol": dict(protocol), "copies": copies, **extra, "players": players}


def main(args: Args) -> None:
    """Write the file; settings that it already holds and that are not measured again stay."""
    if wrong := [each for each in args.settings if not SETTING.fullmatch(each)]:
        raise UserError(
            f"--settings must be bandit_ARMSxPULLS or tabular_mdp_EPISODES, got {', '.join(wrong)}"
        )
    for name, least in (("copies", 1), ("mdp_copies", 1), ("test_tasks", 2)):
        if (number := getattr(args, name)) < least:
            raise UserError(f"--{name.replace('_', '-')} must be at least {least}, got {number}")
    found = read_figures(args.output) if args.output.exists() else {}
    for setting in args.settings:
        found[setting] = measure(setting, args)
        write_figures(found, args.output)


if __name__ == "__main__":
    run_script(main, Args, __doc__)
