"""``python -m runtime.cli``: the command ``engine`` where it is not installed."""

from runtime.cli import main

if __name__ == "__main__":
    main()
