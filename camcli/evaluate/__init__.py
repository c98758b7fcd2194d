"""Aggregating runs: which method and layer is most faithful, and which finds the objects."""
