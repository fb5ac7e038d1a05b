"""Run galr_mm/cli/run_seeds.py, where the code and the options are."""

from galr_mm.cli.run_seeds import main

if __name__ == '__main__':
    main()
