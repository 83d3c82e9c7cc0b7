"""`python -m torchbce`: the command line."""

from torchbce.cli.process import main

if __name__ == "__main__":
    main()
