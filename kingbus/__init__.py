"""A MySQL binlog relay cluster: one stream from the source, kept by Raft, served to replicas."""

__version__ = "0.1.0"
