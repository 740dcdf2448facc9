"""Task distributions: one module a family."""
