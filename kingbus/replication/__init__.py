"""The drivers towards MySQL: receiver, relay, binlog dump and binlog server."""
