"""plate-slide-back-v3: slide a plate out of a cabinet, rewarded as plate-slide-side-v3 is."""

from envs.metaworld.native.tasks.plate_slide_side import reward_v1, reward_v2, task

__all__ = ["reward_v1", "reward_v2", "task"]
