"""Run galr_mm/cli/convert_released_galr.py, where the code and the options are."""

from galr_mm.cli.convert_released_galr import main

if __name__ == '__main__':
    main()
