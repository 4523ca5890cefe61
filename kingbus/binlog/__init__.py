"""The binlog without input or output: events, GTID sets, batches and the relay state."""
