"""Measuring adaptation: cells, protocol, results, statistics, and the comparison of runs."""
