"""The one thing of a build that setup.cfg cannot say: a package that ``find:`` does not find."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=['galr_mm', 'galr_mm.*']), '+galr_mm'],
    package_dir={'+galr_mm': 'dev/mim'},  # what onedl-mim needs of a wheel, see dev/mim/__init__.py
)
