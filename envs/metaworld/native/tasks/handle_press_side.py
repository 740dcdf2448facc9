"""handle-press-side-v3: press a handle down that is beside its box; rewarded as handle-press."""

from envs.metaworld.native.tasks.handle_press import reward_v1, reward_v2, task

__all__ = ["reward_v1", "reward_v2", "task"]
