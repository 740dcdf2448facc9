"""plate-slide-back-side-v3: slide a plate sideways out of a cabinet, rewarded as the way in is."""

from envs.metaworld.native.tasks.plate_slide_side import reward_v1, reward_v2, task

__all__ = ["reward_v1", "reward_v2", "task"]
