"""`python -m layoutner`, and what `deepspeed --module layoutner` and `torchrun -m layoutner` start."""

from layoutner.cli import main

if __name__ == "__main__":
    main()
