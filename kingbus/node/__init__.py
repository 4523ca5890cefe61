"""The driver around the Raft core: it ticks, steps, saves, sends and applies.

`node.Node` is the door, `machine` says what it asks of the layers around it, `bootstrap` chooses
between start, join and restart.
"""
