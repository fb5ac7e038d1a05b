"""Run galr_mm/cli/convert_detections.py, where the code and the options are."""

from galr_mm.cli.convert_detections import main

if __name__ == '__main__':
    main()
