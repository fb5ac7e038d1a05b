"""Run galr_mm/cli/make_selo_mosaics.py, where the code and the options are."""

from galr_mm.cli.make_selo_mosaics import main

if __name__ == '__main__':
    main()
