"""`python -m longcat.cli` is `longcat`."""

from longcat.cli.entry import main

if __name__ == "__main__":
    main()
