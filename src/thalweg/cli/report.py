"""`thalweg report`: one page from the results that are saved in some folders."""

from __future__ import annotations

from pathlib import Path

from thalweg.cli.arguments import tell
from thalweg.outcomes import ThalwegError, bad_input


def report(*paths: Path, out: Path = Path("report.html"), title: str = "Thalweg report") -> None:
    """Put saved results on one self-contained HTML page.

    Args:
        paths: results (.json that save() wrote), or folders that hold some.
        out: the page.
        title: its title.
    """
    from thalweg import report as page
    from thalweg.results import Result

    if not paths:
        raise bad_input(
            "paths", "nothing", "saved results or folders of them", "Write for example thalweg report runs/simulate"
        )
    sections, passed_over = [], []
    for path in (file for given in paths for file in _files(given)):
        try:
            result = Result.load(path)
        except ThalwegError:
            passed_over.append(path)
            continue
        sections.append(
            page.Section(f"{type(result).__name__}: {path}", verbatim=result.summary(), figures=result.figures())
        )
    if not sections:
        raise bad_input(
            "paths",
            [str(path) for path in paths],
            "at least one result that save() wrote",
            "Write for example thalweg report runs/simulate",
        )
    page.write(out, title, sections)
    if passed_over:
        tell(f"passed over {len(passed_over)} JSON files that hold no result, the first {passed_over[0]}")
    tell(f"wrote {out} with {len(sections)} results")


def _files(given: Path) -> list[Path]:
    if given.is_dir():
        return sorted(given.rglob("*.json"))
    if not given.is_file():
        raise bad_input("path", str(given), "a file or folder that exists", "Check the name and the working directory")
    return [given]
