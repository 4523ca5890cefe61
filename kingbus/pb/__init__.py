"""Protobuf messages: what the log's entries, the peers' frames and the stored records carry.

The `.proto` files are the source; `scripts/genproto` writes the modules beside them and
`scripts/genproto --check` finds drift. No logic lives here.
"""
