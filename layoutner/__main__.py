"""Entry point of `python -m layoutner`, `deepspeed --module layoutner` and `torchrun -m layoutner`."""

from layoutner.cli import main

if __name__ == "__main__":
    main()
