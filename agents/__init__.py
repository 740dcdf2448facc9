"""Learning algorithms: one module an agent."""
