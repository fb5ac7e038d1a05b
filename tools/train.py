"""Run galr_mm/cli/train.py, where the code and the options are."""

from galr_mm.cli.train import main

if __name__ == '__main__':
    main()
