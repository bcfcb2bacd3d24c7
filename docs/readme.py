"""README.md from `nbs/index.ipynb`: its text, and what its cells show, with paths from the root."""

import re
import sys
from pathlib import Path

import nbformat

sys.path.insert(0, str(Path(__file__).parent))
from notebooks import CHAPTERS, LINK, NOTEBOOKS, ROOT, chapter_table, directives

from golf.base.tables import code_block

NOTE = "<!-- made from nbs/index.ipynb by `make readme` -->"


def output(node) -> str:
    """A stored output as Markdown: its Markdown, its HTML, or its text."""
    data = node.get("data", {})
    for kind in ("text/markdown", "text/html"):
        if kind in data:
            return "".join(data[kind])
    text = "".join(data.get("text/plain", node.get("text", "")))
    return code_block(text.rstrip(), "text") if text.strip() else ""


def cell_text(cell) -> str:
    """A cell of the index as Markdown."""
    if cell.cell_type == "markdown":
        return cell.source
    options, code = directives(cell.source)
    if cell.cell_type != "code" or options.get("include") == "false" or "hide" in options:
        return ""
    shown = [] if options.get("echo") == "false" or not code else [code_block(code, "python")]
    return "\n\n".join(filter(None, shown + [output(o) for o in cell.outputs]))


def readme() -> str:
    """The text of README.md."""
    cells = nbformat.read(NOTEBOOKS / "index.ipynb", as_version=4).cells
    text = "\n\n".join(filter(None, map(cell_text, cells)))
    text = LINK.sub(lambda m: f"[{m[1]}](nbs/{m[2]}.ipynb{m[4] or ''})", text)
    text = re.sub(r"\]\(\.\./(AGENTS|CONTRIBUTING)\.md\)", r"](\1.md)", text)
    text = text.replace("](../figures/", "](figures/").replace('src="../figures/', 'src="figures/')
    text = text.replace(CHAPTERS, chapter_table("nbs/")).replace("this site", "the site")
    return f"{NOTE}\n\n" + re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


if __name__ == "__main__":
    (ROOT / "README.md").write_text(readme(), encoding="utf-8")
