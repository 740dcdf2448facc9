"""Agents and families that the catalog does not have: the kernel must carry them as they are."""
