"""Finding what fails silently: `meta-rl doctor`."""
