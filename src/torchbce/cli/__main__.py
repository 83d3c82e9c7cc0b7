"""`python -m torchbce.cli`."""

from torchbce.cli.process import main

if __name__ == "__main__":
    main()
