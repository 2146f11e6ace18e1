"""Which folder is which package, subpackages included.

Everything else about the distribution is in ``pyproject.toml``, which cannot express this mapping without a list of
every subpackage.
"""

from setuptools import find_packages, setup

FOLDERS = {
    "tessera.rtl": "rtl",
    "tessera.sim": "sim",
    "tessera.compiler": "compiler",
    "tessera.firmware": "firmware",
    "tessera.cli": "scripts/cli",
}

setup(
    package_dir=FOLDERS,
    packages=[
        name
        for package, folder in FOLDERS.items()
        for name in (package, *(f"{package}.{subpackage}" for subpackage in find_packages(folder)))
    ],
)
