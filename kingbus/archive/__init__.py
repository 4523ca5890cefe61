"""Closed binlog files in a store outside the cluster: putting them there, and serving from there.

`store` says what a store is (`directory` and `s3` are two), `catalogue` what is in it, `archiver`
puts closed files there, `file_stream` makes batches of a file again, `longer_log` sets them before
the node's own log, and `dumper` serves dumps from both. Must not know HTTP, configuration files or
Raft: that it runs on the leader alone is told from outside.
"""
