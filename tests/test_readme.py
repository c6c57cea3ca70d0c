"""What the README tells a user to type works, as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.slow
@pytest.mark.xdist_group("readme")
def test_every_command_and_the_python_example_of_the_readme_run(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "EDGECNN_CACHE": str(tmp_path / "cache"),
    }
    lines = [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]
    script = "\n".join(["set -e", *lines])

    shell = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert shell.returncode == 0, shell.stdout[-2000:] + shell.stderr[-2000:]
    assert (tmp_path / "out" / "mine" / "report.html").is_file()
    assert "Traceback" not in shell.stderr

    (example,) = blocks("python")
    python = subprocess.run(
        [sys.executable, "-c", example],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert python.returncode == 0, python.stderr
    assert "'fire':" in python.stdout


def test_every_make_target_of_the_readme_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")

    named = set(re.findall(r"`make ([a-z-]+)`", README))

    assert [name for name in named if not re.search(rf"^{name}:", makefile, re.MULTILINE)] == []


def test_every_page_that_the_readme_links_to_exists() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)

    assert [link for link in links if not (ROOT / link).is_file()] == []


def test_the_recipes_in_the_docs_are_valid() -> None:
    from edgecnn.workstation.recipe import parse

    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    whole, heads = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    rest = 'name = "two"\ninput = {height_px = 160, width_px = 160}\nmodel = {topology = "mobilenet_v2"}\n'

    assert parse(whole).name == "shells"
    assert [head.name for head in parse(rest + heads).heads] == ["scene", "fire", "place"]
