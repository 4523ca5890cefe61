"""The log on disk, the database of what follows from it, and the directory that holds both.

Everything here is synchronous: drivers call what blocks through their worker threads. See `log`
for the rule about threads.
"""
