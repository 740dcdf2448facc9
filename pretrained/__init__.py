"""Trained policies, one run folder each, trimmed to what adaptation needs."""
