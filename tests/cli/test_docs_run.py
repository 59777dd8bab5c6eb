"""Every Python example in the docs runs as it stands; links and the site's map lead somewhere.

The blocks of a page share one namespace and a temporary folder. A block or config with a title is a file: it is
written under that path first, over a copy of the core's sources where it belongs to them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> tuple[dict[str, str], list[str]]:
    """Files by path, and what is to be run in order."""
    files: dict[str, str] = {}
    code = []
    for language, title, body in BLOCK.findall(page.read_text(encoding="utf8")):
        if title:
            files[title] = body
        elif language == "python":
            code.append(body)
    return files, code


def run(code: str, folder: Path, *sources: Path) -> None:
    script = folder / "page.py"
    script.write_text(code, encoding="utf8")
    path = os.pathsep.join(map(str, sources))
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


#: architecture.md shows signatures and outlines, not programs; pages with sources as files have tests of their own
PLAIN = [
    p
    for p in DOCS
    if p.stem != "architecture"
    and blocks(p)[1]
    and not any(title.endswith(".py") for title in blocks(p)[0])
]


@pytest.mark.parametrize("page", PLAIN, ids=lambda p: p.stem)
def test_a_pages_examples_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {"__name__": page.stem}
    files, every = blocks(page)
    for path, body in files.items():
        Path(path).write_text(body, encoding="utf8")
    for number, code in enumerate(every, 1):
        exec(compile(code, f"{page.name}, example {number}", "exec"), space)


def test_which_pages_have_examples() -> None:
    names = {p.stem for p in DOCS if blocks(p)[1]}
    assert names >= {"guarantees", "adapter-format", "how-to-add-a-method", "how-to-add-an-app"}
    assert names >= {"how-to-graft-your-model"}
    assert "how-to-train-many" in {p.stem for p in PLAIN}


def test_a_method_dropped_in_is_registered_everywhere(tmp_path: Path) -> None:
    files, code = blocks(ROOT / "docs" / "how-to-add-a-method.md")
    (path,) = files
    source = tmp_path / "shared" / "src"
    shutil.copytree(ROOT / "shared" / "src" / "graftwork", source / "graftwork")
    target = tmp_path / path
    assert target.parent.is_dir() and not target.exists()
    target.write_text(files[path], encoding="utf8")
    check = (
        "import graftwork; from graftwork.cli import main\n"
        f"assert graftwork.__file__.startswith({str(source)!r}), graftwork.__file__\n"
        "assert 'ssf' in [c['id'] for c in graftwork.cards()] and main(['methods']) == 0\n"
        "assert main(['inspect', 'scaled']) == 0\n"
    )
    run("\n".join([*code, check]), tmp_path, source)


def test_an_app_of_four_files_has_every_verb(tmp_path: Path) -> None:
    files, code = blocks(ROOT / "docs" / "how-to-add-an-app.md")
    for path, body in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(body, encoding="utf8")
    for package in {(tmp_path / p).parent for p in files}:
        (package / "__init__.py").touch()
    # Lightning's own warnings are not the page's; the app's exit codes are what is asserted there
    quiet = "import warnings; warnings.simplefilter('default')\n"
    run(quiet + "\n".join(code), tmp_path, tmp_path / "apps" / "hello" / "src")
    assert (tmp_path / "runs" / "first" / "config.yaml").is_file()


def test_the_readme_s_five_lines_run(tmp_path: Path) -> None:
    _, (code,) = blocks(ROOT / "README.md")
    lines = [line for line in code.splitlines() if line and not line.startswith("import")]
    assert len(lines) == 5
    setting = (
        "import torch; from torch import nn\n"
        "model, x = nn.Sequential(nn.Linear(6, 40), nn.Linear(40, 6)), torch.randn(2, 6)\n"
        "def train(model, parameters):\n"
        "    step = torch.optim.SGD(parameters, lr=0.1)\n"
        "    model(x).square().sum().backward(); step.step()\n"
        "expected = model(x).detach()\n"
    )
    proof = "\nassert torch.equal(old, expected) and not torch.equal(model(x), expected)\n"
    run(setting + code + proof, tmp_path)


@pytest.mark.parametrize(
    "page", [*DOCS, ROOT / "README.md", ROOT / "data_cards" / "README.md"], ids=lambda p: p.name
)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(
        r"^```.*?^```$", "", page.read_text(encoding="utf8"), flags=re.MULTILINE | re.DOTALL
    )
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


def test_the_sites_map_names_every_page() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf8"))
    pages = [p for entry in site["nav"] for p in entry.values()]
    assert sorted(pages) == [p.name for p in DOCS]


def test_commands_in_the_docs_have_the_options_they_show() -> None:
    from graftwork.cli.verb import all_verbs, load, parser_of

    shown = 0
    for page in [*DOCS, ROOT / "README.md"]:
        for line in re.findall(
            r"(?:^|`)graftwork ([^`\n#]+)", page.read_text(encoding="utf8"), re.MULTILINE
        ):
            words = line.split()
            if words[0] not in all_verbs() or len(words) == 1:
                continue
            parser_of(words[0], load(words[0])).parse_args(words[1:])
            shown += 1
    assert shown >= 5
