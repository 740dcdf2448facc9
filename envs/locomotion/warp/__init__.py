"""Locomotion in MuJoCo Warp: the native simulator's scenes, observation and rewards."""
