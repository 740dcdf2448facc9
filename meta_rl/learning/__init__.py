"""The maths that agents are put together from: returns, baselines, trust region, PPO, policies."""
