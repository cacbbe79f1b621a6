"""What pyproject.toml cannot say: recipes, evidence and the tests that `tilth new` copies lie at the top of a checkout
and ship inside the package."""

import re
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
            for test in copied_tests():
                (target / test).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(test, target / test)


def copied_tests() -> list[Path]:
    """Tests of the techniques that `tilth new` copies (MODELS of tilth/lab/new.py), and the fixtures beside them."""
    models = re.findall(r'^    "\w+": "(\w+)",$', Path("tilth/lab/new.py").read_text(encoding="utf-8"), re.M)
    tests = [path for model in models for path in Path("tests").rglob(f"test_{model}.py")]
    return [*tests, *(p for t in tests if (p := t.with_name("conftest.py")).is_file())]


setup(cmdclass={"build_py": BuildWithShipped})
