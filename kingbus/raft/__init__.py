"""A deterministic Raft core: the same inputs always give the same outputs.

No I/O, no clock, no threads inside. `RawNode` is the door; `types` holds the values.
"""
