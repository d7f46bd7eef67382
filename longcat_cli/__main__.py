"""`python -m longcat_cli` is `longcat`."""

from longcat_cli.app import main

if __name__ == "__main__":
    main()
