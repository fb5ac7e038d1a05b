"""For ``mim`` alone, which finds this folder in the place of galr_mm; it is no module, and nothing imports it.

onedl-mim (0.5.1) takes the folder of the first line of the RECORD for a package. pip sorts those lines, and
``galr_mm-<version>.dist-info`` comes before ``galr_mm/`` but after ``galr_mm+mim/``. The files here are those of
``galr_mm/.mim``, a second time.
"""
