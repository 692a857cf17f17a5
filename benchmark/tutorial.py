"""Runs the tutorial: writes its notebooks, its pictures, and what its cells print.

    python benchmark/tutorial.py        # some minutes

The text and the code are in docs/tutorial.md, and in docs/tutorial.zh.md with the same code. Below
a cell of Python stands what it prints, in a block of text, and the picture that it draws. Both are
put there by this command. A notebook has them as the outputs of its cells.

Only the English notebook is executed. The Chinese one has the same code to the letter, which is
checked, and is given the same outputs.
"""

import base64
import os
import re
import sys
import tempfile
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = ("tutorial.md", "tutorial.zh.md")
PRINTED = re.compile(r"```text\n(?P<printed>.*?)```\n", re.DOTALL)
PICTURE = re.compile(r"!\[[^\]]*\]\(figures/tutorial/(?P<name>[\w-]+)\.png\)\n")
# a cell of Python, and below it what it prints and draws, where it does
CELL = re.compile(
    rf"^```python\n(?P<code>.*?)^```\n(?:\n{PRINTED.pattern})?(?:\n{PICTURE.pattern})?",
    re.DOTALL | re.MULTILINE,
)


def cells(text):
    """The cells of a page: dicts of `code`, of `printed`, and of a picture's `name`, or None."""
    return [match.groupdict() for match in CELL.finditer(text)]


def notebook_of(text):
    """A page as a notebook without outputs: text and code."""
    text = CELL.sub(lambda match: f"```python\n{match['code']}```\n", text)
    notebook = jupytext.reads(text, fmt="md")
    for i, cell in enumerate(notebook.cells):
        cell.id = f"cell-{i}"  # else a random one
    notebook.metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
    }
    return notebook


def run(notebook):
    """Executes the cells in a folder of their own; they import the scripts of this repository."""
    os.environ["PYTHONPATH"] = str(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=3600, resources=resources, record_timing=False).execute()


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed_by(cell):
    """What an executed cell has printed."""
    texts = [output.text for output in cell.outputs if output.output_type == "stream"]
    return "".join(texts)


def picture_of(cell):
    """The picture that an executed cell has drawn, as a PNG file's contents, or None."""
    for output in cell.outputs:
        if "image/png" in output.get("data", {}):
            return base64.b64decode(output.data["image/png"])
    return None


def with_outputs(text, executed):
    """A page with what its executed cells have printed."""
    rest = iter(executed)

    def fill(match):
        printed = printed_by(next(rest))
        assert bool(printed) == (match["printed"] is not None), f"a block of text for {printed!r}"
        if not printed:
            return match[0]
        return PRINTED.sub(lambda _: f"```text\n{printed}```\n", match[0], count=1)

    return CELL.sub(fill, text)


def write_pictures(text, executed):
    """Writes the pictures to docs/figures/tutorial, by the names that the page has for them."""
    folder = DOCS / "figures" / "tutorial"
    folder.mkdir(parents=True, exist_ok=True)
    for cell, output in zip(cells(text), executed, strict=True):
        picture = picture_of(output)
        assert (picture is None) == (cell["name"] is None), f"a picture of {cell['code']}"
        if picture is not None:
            (folder / f"{cell['name']}.png").write_bytes(picture)


def write_page(page, executed):
    """Writes the notebook of a page, and what its cells print into the page, from executed cells.

    The code is the same in all languages, and so is what it gives.
    """
    notebook = notebook_of(page.read_text())
    for cell, output in zip(code_cells(notebook), executed, strict=True):
        assert cell.source == output.source, f"{page} has other code:\n{cell.source}"
        cell.outputs = output.outputs
        cell.execution_count = output.execution_count
    page.write_text(with_outputs(page.read_text(), executed))
    nbformat.write(notebook, page.with_suffix(".ipynb"))


def check_same_code():
    """Ends with one sentence where a page's code is not the first page's."""
    sources = []
    for name in PAGES:
        notebook = notebook_of((DOCS / name).read_text())
        sources.append([cell.source for cell in code_cells(notebook)])
    for name, other in zip(PAGES, sources, strict=True):
        if other != sources[0]:
            sys.exit(f"error: the code of {name} is not that of {PAGES[0]}.")


def main():
    check_same_code()  # now: to run the code takes minutes
    text = (DOCS / PAGES[0]).read_text()
    english = notebook_of(text)
    run(english)
    executed = code_cells(english)
    write_pictures(text, executed)
    for name in PAGES:
        write_page(DOCS / name, executed)


if __name__ == "__main__":
    main()
