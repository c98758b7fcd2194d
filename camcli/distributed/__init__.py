"""A run on a Ray cluster: Ray Data sends descriptions of shards to workers, and each shard is a run in a folder of its own.

No pixel passes through Ray. Nothing here imports Ray before a run is asked to use it.
"""
