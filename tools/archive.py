"""Run galr_mm/cli/archive.py, where the code and the options are."""

from galr_mm.cli.archive import main

if __name__ == '__main__':
    main()
