"""For ``mim`` alone, which finds this folder in the place of galr_mm; it is not a module, and nothing imports it.

onedl-mim (0.5.1) takes the folder of the first line of the RECORD for a package. pip sorts those lines: the console
scripts (``../../../bin/galr-...``) come before ``galr_mm/``, but after ``+galr_mm/``, as this folder is called in a
wheel. The files here are those of ``galr_mm/.mim``, a second time.
"""
