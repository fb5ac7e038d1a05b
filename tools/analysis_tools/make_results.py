"""Run galr_mm/cli/make_results.py, where the code and the options are."""

from galr_mm.cli.make_results import main

if __name__ == '__main__':
    main()
