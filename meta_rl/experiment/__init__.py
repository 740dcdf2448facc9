"""What is to be run: configs and flags, the catalog, and building the parts they name."""
