"""Entry point of `python -m longcat.cli`, the same as `longcat`."""

from longcat.cli.entry import main

if __name__ == "__main__":
    main()
