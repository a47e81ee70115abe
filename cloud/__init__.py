"""The cloud: aggregates zones after several rounds. NumPy only."""
