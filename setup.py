"""What pyproject.toml cannot say: recipes and evidence lie at the top of a checkout and ship inside the package."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ("recipes", "evidence")


class BuildWithShipped(build_py):
    """Copies them to `tilth/shipped`, where tilth.core.shipped finds them; an editable install reads the checkout's."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "tilth" / "shipped"
            shutil.rmtree(target, ignore_errors=True)
            for name in SHIPPED:
                shutil.copytree(name, target / name)


setup(cmdclass={"build_py": BuildWithShipped})
