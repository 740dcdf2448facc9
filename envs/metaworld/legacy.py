"""Meta-World's own meta-evaluation of our agents, with its own counting."""

import pickle
from collections import OrderedDict
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import metaworld
import numpy as np
import torch
from jaxtyping import Float
from metaworld.evaluation import Timestep, metalearning_evaluation
from metaworld.types import Task
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as pytree

from envs.metaworld.goals import Goals
from envs.metaworld.welds import mend_welds
from meta_rl.core.errors import UserError
from meta_rl.core.protocols import MetaAgent, TaskDistribution
from meta_rl.core.seeding import Noise, SharedNoise, make_generator
from meta_rl.core.types import Context, EnvSpec, Rollout, Tasks, TimeStep
from meta_rl.evaluation.protocol import choose_tasks
from meta_rl.experiment.config import EvaluationConfig

WORLDS = 20
"""Environments stepped together, at most: the meta-batch that metaworld's defaults assume."""
GOALS = 40
"""Goals of each name, where nobody says how many; assumed likewise."""
EVALUATION_EPISODES = 3
WARNING = (
    "this is metaworld {version}'s own count, which flatters: for each task name it takes the "
    "first episodes to finish, and success ends an episode, so quick successes crowd out failures; "
    "one goal of ten that is solved fast can count as 100 %. Do not compare it with other results "
    "here"
)


class GoalsDrawn(metaworld.Benchmark):
    """A benchmark of goals that are drawn already; metaworld would take minutes to draw the same.

    Args:
        goals: Goal vectors by split and task name.
    """

    def __init__(self, goals: Goals) -> None:
        classes = metaworld.env_dict.ALL_V3_ENVIRONMENTS
        self._train_classes, self._test_classes = (
            OrderedDict((name, classes[name]) for name in goals[split])
            for split in ("train", "test")
        )
        self._train_tasks, self._test_tasks = (
            [
                Task(name, _packed(classes[name], vector))
                for name, vectors in goals[split].items()
                for vector in vectors
            ]
            for split in ("train", "test")
        )


def _packed(env_class: type, vector: list[float]) -> bytes:
    data = {"rand_vec": np.array(vector), "env_cls": env_class, "partially_observable": True}
    return pickle.dumps(data)


class LegacyAgent:
    """One of our agents as metaworld's `MetaLearningAgent`: W environments are W tasks, one copy.

    Evaluation episodes begin with what adaptation left behind: nothing is learned from them.

    Args:
        tasks: Tells which tasks the environments have been given.
        deterministic: Evaluate with the mode of the policy; adaptation always draws.
    """

    def __init__(
        self,
        agent: MetaAgent,
        spec: EnvSpec,
        tasks: Callable[[], Tasks],
        device: torch.device,
        deterministic: bool,
        noise: Noise,
    ) -> None:
        self.agent, self.spec, self.tasks, self.device = agent, spec, tasks, device
        self.deterministic, self.noise = deterministic, noise

    def init(self) -> None:
        """Forget the tasks before, and begin the ones that the environments have now."""
        tasks = self.tasks()
        self.context: Context = self.agent.begin(tasks, 1, False)
        self.prev_action = torch.zeros(len(tasks), 1, self.spec.action_size, device=self.device)
        self.prev_reward = torch.zeros(len(tasks), 1, device=self.device)
        self.first = torch.ones(len(tasks), 1, dtype=torch.bool, device=self.device)
        self.steps: list[dict[str, Tensor]] = []
        self.learned = self._memory()

    def adapt_action(
        self, observations: Float[np.ndarray, "W O"]
    ) -> tuple[Float[np.ndarray, "W A"], dict[str, NDArray[Any]]]:
        """Act to learn."""
        step = self._act(observations, self.noise)
        self.steps.append(step)
        return self._sent(step["action"]), {}

    def step(self, timestep: Timestep) -> None:
        """Record what the last action brought."""
        self.steps[-1] |= {
            "reward": self._tensor(timestep.reward, torch.float32),
            "terminated": self._tensor(timestep.terminated, torch.bool),
            "truncated": self._tensor(timestep.truncated, torch.bool),
        }
        self.prev_reward = self.steps[-1]["reward"]
        self.first = self.steps[-1]["terminated"] | self.steps[-1]["truncated"]

    def adapt(self) -> None:
        """Learn from what was recorded."""
        columns = {name: torch.stack([s[name] for s in self.steps]) for name in self.steps[0]}
        # The successor of an episode's last step is not shown: the state itself stands for it.
        last = (columns["terminated"] | columns["truncated"]).unsqueeze(-1)
        obs = columns["obs"]
        next_obs = torch.where(last, obs, torch.cat([obs[1:], obs[-1:]]))
        self.context = self.agent.adapt(
            self.context, Rollout(**columns, next_obs=next_obs, metrics={})
        )
        self.steps = []
        self.first = torch.ones_like(self.first)
        self.learned = self._memory()

    def eval_action(self, observations: Float[np.ndarray, "W O"]) -> Float[np.ndarray, "W A"]:
        """Act to be measured."""
        reward = self._tensor(observations[:, self.spec.observation_size + self.spec.action_size])
        # after a reset the environment shows zero, but the memory is of the last adaptation
        self.prev_reward = torch.where(self.first, self.prev_reward, reward)
        step = self._act(observations, None if self.deterministic else self.noise)
        self.first = torch.zeros_like(self.first)
        return self._sent(step["action"])

    def reset(self, env_mask: NDArray[np.bool_]) -> None:
        """Begin evaluation episodes where the mask says."""
        if not env_mask.any():
            return
        mask = torch.from_numpy(env_mask).to(self.device)

        def restored(now: Tensor, then: Tensor) -> Tensor:
            return torch.where(mask.view(-1, *[1] * (now.dim() - 1)), then, now)

        now = pytree.tree_map(restored, self._memory(), self.learned)
        self.context, self.prev_action, self.prev_reward = now
        self.first = self.first | mask.unsqueeze(-1)

    def _memory(self) -> tuple[Context, Tensor, Tensor]:
        return self.context, self.prev_action, self.prev_reward

    def _tensor(self, values: NDArray[Any], dtype: torch.dtype = torch.float32) -> Tensor:
        """Return one value a world as (W, 1)."""
        return torch.as_tensor(values, dtype=dtype, device=self.device).unsqueeze(1)

    @torch.no_grad()
    def _act(
        self, observations: Float[np.ndarray, "W O"], noise: Noise | None
    ) -> dict[str, Tensor]:
        obs = self._tensor(observations[:, : self.spec.observation_size])
        valid = torch.ones_like(self.first)
        timestep = TimeStep(obs, self.prev_action, self.prev_reward, self.first, valid)
        action, log_prob, self.context = self.agent.act(self.context, timestep, noise)
        self.prev_action = action
        return {**vars(timestep), "action": action, "log_prob": log_prob}

    def _sent(self, action: Tensor) -> Float[np.ndarray, "W A"]:
        """Return actions as metaworld wants them, clipped to their bounds as ours are."""
        sent: NDArray[np.float64] = action.squeeze(1).cpu().double().numpy()
        return sent.clip(*self.spec.action_bounds)


def evaluate_as_metaworld(
    distribution: TaskDistribution,
    goals_drawn: Goals,
    reward_version: str,
    agent: MetaAgent,
    device: torch.device,
    config: EvaluationConfig,
    copies: int,
) -> dict[str, Any]:
    """Return what `metaworld.evaluation.metalearning_evaluation` says of an agent.

    Its counting flatters; the result says how. Without `config.goals` it takes as many goals of
    each name as metaworld's defaults assume. Each of `config.adaptation_steps` adaptations learns
    from as many episodes as in our own evaluation with so many copies, one after the other.
    """
    if config.split == "validation":
        raise UserError("metaworld's own count has no validation split: give --split train or test")
    spec, benchmark = distribution.spec, GoalsDrawn(goals_drawn)
    tasks = choose_tasks(distribution, config.split, config.goals or GOALS)
    sharing = copies if agent.copies_share_experience else 1
    adaptation_episodes = agent.phases[0].episodes * sharing
    names = list(dict.fromkeys(tasks.names))
    goals = len(tasks) // len(names)
    # metaworld wants the environments of a name to share its goals evenly
    share = max(1, WORLDS // len(names))
    copies = max(count for count in range(1, share + 1) if goals % count == 0)
    mend_welds()
    envs = metaworld._make_ml_envs_inner(
        benchmark,
        meta_batch_size=copies * len(names),
        seed=config.seed,
        total_tasks_per_cls=goals,
        split=config.split,
        terminate_on_success=True,
        task_select="pseudorandom",
        reward_function_version=reward_version,
        max_episode_steps=spec.horizon,
        recurrent_info_in_obs=True,  # or no agent would see its rewards while it is measured
        normalize_reward_in_recurrent_info=False,
    )
    row_of = {(task.name, task.params): row for row, task in enumerate(tasks)}

    def current_tasks() -> Tasks:
        padding = [0.0] * tasks.params.shape[1]
        vectors = [vector.tolist() for vector in envs.get_attr("_last_rand_vec")]
        padded = [tuple((vector + padding)[: len(padding)]) for vector in vectors]
        world_names = [name for name in names for _ in range(copies)]
        return tasks[[row_of[world] for world in zip(world_names, padded, strict=True)]]

    noise = SharedNoise(make_generator(config.seed, "legacy_metaworld", device))
    deterministic = config.actions == "deterministic"
    legacy_agent = LegacyAgent(agent, spec, current_tasks, device, deterministic, noise)
    options = {
        "num_evals": goals // copies,
        "adaptation_steps": config.adaptation_steps,
        "adaptation_episodes": adaptation_episodes,
        "evaluation_episodes": config.evaluation_episodes or EVALUATION_EPISODES,
    }
    try:
        success, episode_return, by_name = metalearning_evaluation(legacy_agent, envs, **options)
    finally:
        envs.close()
    return {
        "counted_by": f"metaworld {version('metaworld')}: metaworld.evaluation",
        "warning": WARNING.format(version=version("metaworld")),
        "success": success,
        "episode_return": episode_return,
        "success_by_name": {name: float(by_name[name]) for name in names},
        "options": {
            **options,
            "environments": copies * len(names),
            "goals_of_each_name": goals,
            "horizon": spec.horizon,
            "reward_version": reward_version,
            "split": config.split,
            "actions": config.actions,
            "seed": config.seed,
        },
    }
