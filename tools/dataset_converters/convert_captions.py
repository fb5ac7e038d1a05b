"""Run galr_mm/cli/convert_captions.py, where the code and the options are."""

from galr_mm.cli.convert_captions import main

if __name__ == '__main__':
    main()
