"""`python -m kingbus` is the `kingbus` command."""

from kingbus.cli.main import main

if __name__ == "__main__":
    main()
