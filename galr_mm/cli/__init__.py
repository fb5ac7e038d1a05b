from galr_mm.utils.start import prepare_process

prepare_process()  # before a tool's module imports torch
