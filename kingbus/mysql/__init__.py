"""The MySQL client/server protocol without I/O; see each module for what it owns."""
