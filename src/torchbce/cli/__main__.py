"""`python -m torchbce.cli`."""

from torchbce.cli.app import main

if __name__ == "__main__":
    main()
