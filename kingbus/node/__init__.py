"""The driver around the Raft core: it ticks, steps, saves, sends and applies.

`node.Node` is the door; `machine` says what it asks of the layers around it.

    in          `inbox` (from peers), `proposals`, `reads`
    the loop    `node`, with `core` (how the core is set up) and `fates` (of snapshots sent)
    to disk     `append_task`, with `writes` (what becomes one) and `log_start` (cut, install)
    applied     `node`, with `changes` (of the membership, as entries hold them), `leadership`
    leader      `membership` -> `handover` -> `turns` -> `node`; `peers` is what they judge by
    beginnings  `bootstrap` (start, join, restart), `joining`, `calls` (what members ask each other)

The modules beside `node` never import it, except for `calls`: they are given what they need, or
declare it as a Protocol (`turns.Driver`).
"""
