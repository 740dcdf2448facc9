"""Any `gymnasium.Env`, stepped in worker processes that share memory with the parent."""
