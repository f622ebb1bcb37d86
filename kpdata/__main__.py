"""`python -m kpdata`: the command line, where the console script is not on the path."""

from kpdata.cli.start import main

if __name__ == "__main__":
    main()
