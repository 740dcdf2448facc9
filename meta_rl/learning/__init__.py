"""The maths of agents: returns, baselines, trust regions, PPO, policies, memories and more."""
