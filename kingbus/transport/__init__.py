"""Frames between members: two lanes per peer for Raft messages, and calls.

`transport.Transport` is the door; `codec` is the wire form; `call` asks a member that is known by
its address only.
"""
