"""Run galr_mm/cli/verify_dataset.py, where the code and the options are."""

from galr_mm.cli.verify_dataset import main

if __name__ == '__main__':
    main()
