"""Run galr_mm/cli/extract_proposals.py, where the code and the options are."""

from galr_mm.cli.extract_proposals import main

if __name__ == '__main__':
    main()
