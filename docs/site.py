"""Collect the pages of the documentation site, as a hook of MkDocs.

The pages are the Markdown files of the repository, wherever they are. They keep their paths, so that relative links
work on the site as they do in the repository, except that `docs/` is not part of a page's address. Other files, such
as pictures and source code, are copied to the site if a page links to them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).parent.parent
PAGES = (
    "*.md",
    "client/*.md",
    "deploy/**/*.md",
    "docs/**/*.md",
    "examples/*.md",
    "gateway/*.md",
    "serving/*.md",
    "training/*.md",
    "training/src/**/*.md",
)
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


def pages() -> list[Path]:
    """Return the Markdown files that are pages of the site."""
    return sorted({page for pattern in PAGES for page in ROOT.glob(pattern)})


def linked_files(page: Path) -> set[Path]:
    """Return the files of the repository that a page links to, other pages excepted."""
    targets = LINK.findall(page.read_text(encoding="utf-8"))
    found = {(page.parent / target).resolve() for target in targets if "://" not in target}
    return {path for path in found if path.is_file() and path.suffix != ".md" and path.is_relative_to(ROOT)}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace the files of docs/ by those of the repository; the files of the theme stay."""
    collected = pages()
    paths = {*collected, *(path for page in collected for path in linked_files(page))}
    theme = [file for file in files if file.src_dir != config.docs_dir]
    return Files([*theme, *(_file(path, config) for path in sorted(paths))])


def _file(path: Path, config: MkDocsConfig) -> File:
    """Return a file of the site. Names that begin with a dot are included, which MkDocs would leave out."""
    source = path.relative_to(ROOT).as_posix()
    address = Path(source.removeprefix("docs/"))
    if path.suffix == ".md":
        folder = address.parent if path.stem == "README" else address.with_suffix("")
        address = folder / "index.html"
    return File(
        source,
        str(ROOT),
        config.site_dir,
        use_directory_urls=True,
        dest_uri=address.as_posix(),
        inclusion=InclusionLevel.INCLUDED,
    )


class ExampleSections(griffe.Extension):
    """Let the API reference treat the docstrings' section `Example:` as it treats `Examples:`."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the section."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
