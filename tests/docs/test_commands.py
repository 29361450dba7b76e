"""Runs every command and all Python code of the docs, in order, with sizes that take about a second."""

import re
import runpy
import shlex
import shutil
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image
from postgresql_server import connections_closed, needs_server, running_server

import sweep.cli

ROOT = Path(__file__).parents[2]
PAGES = (
    "tutorial",
    "guide",
    "own-study",
    "how-it-works",
    "benchmarks",
    *(f"benchmarks/{page}" for page in ("speed", "search", "accuracy", "photographs-and-texts")),
    "reliability",
    "architecture",
    "api",
    "reports",
    "trackers",
    "cluster",
    "scale",
    "gpu",
    "side-networks",
)
DOCS = ("README.md", "CONTRIBUTING.md", *(f"docs/{page}.md" for page in PAGES))
TINY = (
    *("--backbone", "tiny-untrained", "--group-size", "2"),
    *("--trials", "3", "--epochs", "2", "--n-parallel", "10", "--batch-size", "64"),
)
FEWER_PHOTOS = ("PER_CLASS, NAMES = 112, 100, ", "PER_CLASS, NAMES = 112, 12, ")
SUBCOMMANDS: dict[str, Any] = typer.main.get_command(sweep.cli.app).commands  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Block:
    """Something in a document that a reader would run.

    Attributes:
        kind: `command`, `python`, `file` (Python code whose first line names its file) or `inline`.
        text: The command or the code.
    """

    kind: str
    text: str


def blocks_of(document: str) -> Iterator[Block]:
    """Yield the blocks that can be run, in the order of the document."""
    fence: list[str] | None = None
    language = ""
    for line in document.splitlines():
        if line.startswith("```"):
            if fence is None:
                fence, language = [], line.removeprefix("```").strip()
            else:
                if language == "python":
                    yield Block("file" if re.match(r"# \w+\.py\b", fence[0]) else "python", "\n".join(fence))
                fence = None
        elif fence is not None:
            fence.append(line)
        elif match := re.fullmatch(r"    ((?:sweep|python|pytest)\b.*)", line):
            yield from (Block("command", part.strip()) for part in match[1].split("&&"))
        else:
            yield from (Block("inline", text) for text in re.findall(r"`((?:sweep|pytest) [^`]+)`", line))


def newest_runs_for_dots(text: str) -> str:
    """Replace `runs/STUDY-…`, as the docs write it, by the newest run folder of that study."""

    def newest(match: re.Match[str]) -> str:
        found = sorted(Path("runs").glob(f"{match[1]}-[0-9]*"), key=lambda path: path.stat().st_mtime)
        assert found, f"{match[0]} stands in the docs before the run that makes it"
        return str(found[-1])

    return re.sub(r"runs/(\w+)-…", newest, text)


def check_options(arguments: list[str]) -> None:
    """Fail if a command has an option or a subcommand that does not exist."""
    name, *options = arguments
    if not name.startswith("-"):
        context = SUBCOMMANDS[name].make_context(name, [], resilient_parsing=True)
        context.resilient_parsing = False
        SUBCOMMANDS[name].make_parser(context).parse_args([option for option in options if option != "--help"])


def call(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Call `sweep` in this process."""
    check_options(arguments)
    if arguments[0] in (
        "bench",
        "stop",
        "clone",
    ):  # these take minutes or need a running search; tests/bench and tests/search cover them
        return
    if arguments[0] in ("run", "plan"):
        arguments = [*arguments, *TINY, *([] if "--data" in arguments else ["--data", "photos"])]
    monkeypatch.setattr(sys, "argv", ["sweep", *arguments])
    with pytest.raises(SystemExit) as ended:
        sweep.cli.main()
    assert not ended.value.code, arguments


def carry_out(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Run a shell command of the docs."""
    program, *arguments = shlex.split(newest_runs_for_dots(command), comments=True)
    target = arguments.pop() if ">" in arguments else None
    if target is not None:
        arguments.remove(">")
    capsys.readouterr()
    if program == "sweep":
        call(arguments, monkeypatch)
    elif arguments[:3] == ["-m", "pip", "install"]:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert set(re.findall(r"\.\[(.+)\]", command)[0].split(",")) <= set(extras)
    elif program == "python":
        runpy.run_path(arguments[0])
    else:
        check_tests(command)
    if target is not None:
        Path(target).write_text(capsys.readouterr().out)
        assert Path(target).stat().st_size


def check_tests(command: str) -> None:
    """Fail if a pytest command names a path that does not exist."""
    for argument in shlex.split(command)[1:]:
        assert not argument.startswith("tests") or (ROOT / argument).exists(), command


@pytest.fixture
def photos_of_a_reader(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working folder that contains only a reader's photos."""
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(finished_run.parent / "cache"))
    monkeypatch.setattr("optuna_dashboard.run_server", lambda storage, **options: None)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished_run.parent / "images", "photos")


@pytest.mark.parametrize("name", DOCS)
def test_every_command_runs(
    name: str, photos_of_a_reader: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    document = (ROOT / name).read_text()
    if "draw_photos.py" in document:
        assert FEWER_PHOTOS[0] in document
        shutil.rmtree("photos")
    variables: dict[str, Any] = {"image": Image.new("RGB", (40, 30)), "sweep": sweep}
    for block in blocks_of(document):
        if block.kind == "file":
            Path(re.findall(r"\w+\.py", block.text)[0]).write_text(block.text.replace(*FEWER_PHOTOS) + "\n")
        elif block.kind == "python":
            exec(compile(newest_runs_for_dots(block.text), f"{name}, Python", "exec"), variables)
        elif block.kind == "inline":
            words = shlex.split(block.text, comments=True)
            check_options(words[1:]) if words[0] == "sweep" else check_tests(block.text)
        else:
            carry_out(block.text, monkeypatch, capsys)


def fenced_commands(name: str) -> list[str]:
    """Commands of `sweep`, and of `createdb`, in the blocks of a document that show a terminal."""
    fences = re.findall(r"^```text\n(.*?)^```", (ROOT / name).read_text(), re.MULTILINE | re.DOTALL)
    return re.findall(r"\b(?:sweep (?:run|resume)|createdb) .+", "\n".join(fences))


def test_commands_for_clusters_have_options_that_exist() -> None:
    commands = [command for command in fenced_commands("docs/cluster.md") if "--cluster" in command]
    assert len(commands) >= 3
    for command in commands:
        check_options(shlex.split(command, comments=True)[1:])


@needs_server
def test_commands_for_postgresql_run(
    photos_of_a_reader: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    create, *commands = [command for command in fenced_commands("docs/cluster.md") if "--cluster" not in command]
    assert [command.split()[:2] for command in commands] == [["sweep", "run"], ["sweep", "resume"]]
    with running_server() as server, connections_closed():
        server.sql(f"CREATE DATABASE {create.split()[1]}")
        for command in commands:
            carry_out(command.replace("postgresql://me@localhost/trials", server.url("trials")), monkeypatch, capsys)


def anchors(path: Path) -> set[str]:
    """Return the anchors of a Markdown page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_have_a_target() -> None:
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")):
        for target, anchor in re.findall(r"\]\((?!https?://)([^)#]*)#?([^)]*)\)", page.read_text()):
            linked = page.parent / target if target else page
            assert linked.exists(), f"{page.name}: {target}"
            assert not anchor or anchor in anchors(linked), f"{page.name}: {target}#{anchor}"


def test_blocks_are_found_and_wrong_commands_fail() -> None:
    fences = "```python\n# x.py\n1\n```\n```python\n2\n```\n```\n3\n```"
    document = f"    sweep a && pytest\n`sweep run --epochs 3` `other`\n{fences}"
    assert [(block.kind, block.text) for block in blocks_of(document)] == [
        ("command", "sweep a"),
        ("command", "pytest"),
        ("inline", "sweep run --epochs 3"),
        ("file", "# x.py\n1"),
        ("python", "2"),
    ]
    with pytest.raises(Exception, match="epoch-count"):
        check_options(["run", "--epoch-count", "3"])
    with pytest.raises(KeyError):
        check_options(["walk"])
    with pytest.raises(AssertionError, match="tests/none"):
        check_tests("pytest tests/none")
