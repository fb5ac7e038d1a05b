"""Run galr_mm/cli/get_flops.py, where the code and the options are."""

from galr_mm.cli.get_flops import main

if __name__ == '__main__':
    main()
