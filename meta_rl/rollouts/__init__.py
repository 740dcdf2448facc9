"""Experience: the collector that lets an agent act, and the simulators that it acts in."""
