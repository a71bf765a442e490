"""The package is described in setup.cfg; this file lets tools that still look for it find it."""

from setuptools import setup

setup()
