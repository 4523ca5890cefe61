"""The command line. `main.main` is the door; every command's module imports what it needs late."""
