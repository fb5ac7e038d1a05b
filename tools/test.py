"""Run galr_mm/cli/test.py, where the code and the options are."""

from galr_mm.cli.test import main

if __name__ == '__main__':
    main()
