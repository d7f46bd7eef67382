"""`python -m longcat.cli` is `longcat`."""

from longcat.cli.app import main

if __name__ == "__main__":
    main()
