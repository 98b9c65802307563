"""The folders of the repository as one import name: ``losses/`` is installed as ``mixseg.losses``.

A folder with a ``py.typed`` is a package of ``mixseg``, with the packages below it; ``api/`` is
``mixseg`` itself. So no generic name such as ``losses`` reaches anyone's environment. Everything
else stands in pyproject.toml.
"""

from pathlib import Path

from setuptools import find_packages, setup

NAME, TOP = "mixseg", "api"
marked = {mark.parent.name for mark in Path(__file__).parent.glob("*/py.typed")}
rooms = sorted(marked - {TOP})

setup(
    packages=[
        NAME,
        f"{NAME}.bundles",
        *(f"{NAME}.{room}" for room in rooms),
        *(f"{NAME}.{room}.{package}" for room in rooms for package in find_packages(room)),
    ],
    package_dir={NAME: TOP} | {f"{NAME}.{room}": room for room in ("bundles", *rooms)},
)
