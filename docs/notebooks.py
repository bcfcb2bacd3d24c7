"""The notebook reader of the site: from `nbs/` through nbdev to pages that Sphinx understands.

nbdev executes what documentation needs and links names (`_proc/*.ipynb`); this module puts each
definition's text, signature and folded source back in its place, turns Quarto's few notations into
MyST, and writes `_proc/site/` with a table of contents made from the files' names.
"""

import ast
import functools
import gc
import importlib
import inspect
import json
import os
import re
import shutil
import sys
import textwrap
import warnings
from pathlib import Path
from types import ModuleType

import nbformat
from IPython.core.history import HistoryManager
from nbformat.v4 import nbbase, new_code_cell, new_markdown_cell

from golf.base.tables import Markup, markdown_table

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "nbs"
PARTS = {  # a folder of notebooks and a subpackage each, in the order in which data flows
    "base": "Foundations",
    "text": "Text",
    "predict": "Prediction",
    "count": "Counting",
    "mix": "Mixing",
    "net": "The network",
    "store": "The artifact",
    "train": "Training",
    "adapt": "Adapting",
    "auditor": "Auditing",
    "published": "As published",
    "lab": "The laboratory",
}
EXPERIMENTS = "Experiments"
GUIDES = "Guides"  # a folder of notebooks that export nothing: one task a page
PLAIN = {  # files at the root that are pages of the site, and what they tell
    "AGENTS": "A new arm becomes a verdict in three commands: what to type, what the answer means, "
    "what not to touch.",
    "CONTRIBUTING": "Where things live, how to add a chapter, an arm, an experiment or a recipe, "
    "and which checks run.",
}
CHAPTERS = "<!-- chapters -->"  # in the index: where their table belongs

DIRECTIVE = re.compile(r"#\s*\|\s*([\w-]+):?\s*(.*)")
CALLOUT = re.compile(r"^:::+\s*\{\.callout-(\w+)([^}]*)\}[ \t]*\n(?:#+ (.+)\n+)?", re.MULTILINE)
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!\w+://|#|mailto:)/?([\w./-]+?)\.(html|ipynb)(#[^)]*)?\)")


# Which chapters there are


def page(path: Path) -> str:
    """The page a notebook becomes, as nbdev links to it: `net/01_model.ipynb` -> `net/model`."""
    path = path if path.is_absolute() else NOTEBOOKS / path
    inside = path.resolve().relative_to(NOTEBOOKS)
    return inside.with_name(re.sub(r"^\d+[a-z]*_", "", inside.stem)).as_posix()


def notebooks(folder: Path = NOTEBOOKS) -> list[Path]:
    """All notebooks: experiments, guides, then the parts in their order; the index left out."""
    order = {part: number for number, part in enumerate([GUIDES.lower(), *PARTS])}
    paths = [
        *folder.glob("*.ipynb"),
        *(p for part in order for p in (folder / part).glob("*.ipynb")),
    ]
    named = [p for p in paths if p.stem != "index" and p.name[0] not in "_."]
    return sorted(named, key=lambda p: (order.get(p.parent.name, -1), p.name))


@functools.cache
def pages() -> frozenset[str]:
    """The names of all pages that notebooks become, the index too."""
    return frozenset(map(page, notebooks())) | {"index"}


def chapters(folder: Path = NOTEBOOKS) -> dict[str, list[Path]]:
    """The notebooks of each group in reading order, the index left out; empty groups too."""
    paths = notebooks(folder)
    found = {EXPERIMENTS: [p for p in paths if p.parent == folder]}
    groups = {GUIDES.lower(): GUIDES} | PARTS
    return found | {
        words: [p for p in paths if p.parent.name == part] for part, words in groups.items()
    }


@functools.cache
def title(path: Path) -> tuple[str, str]:
    """Title and one-sentence description of a notebook, from its first cell."""
    first = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
    name = re.search(r"^# (.+)$", first, re.MULTILINE)
    lead = re.findall(r"^> ?(.*)$", first, re.MULTILINE)
    return (name[1] if name else path.stem), " ".join(lead)


def chapter_table(folder: str = "") -> str:
    """A Markdown table of all chapters by group, with links to the notebooks in `folder`."""
    rows = []
    for name, paths in chapters().items():
        for path in paths:
            heading, lead = title(path)
            place = folder + path.relative_to(NOTEBOOKS).as_posix()
            rows.append([name, Markup(f"[{heading}]({place})"), Markup(lead)])
            name = ""
    return markdown_table(["", "chapter", ""], rows)


def llms(with_api: bool = True) -> str:
    """The site for programs that read, after llmstxt.org: a title, a sentence, a link a page.

    Links are from the site's root; every page has its sentence.
    """
    heading, lead = title(NOTEBOOKS / "index.ipynb")
    first = []
    for name, told in PLAIN.items():
        words = (ROOT / f"{name}.md").read_text(encoding="utf-8").partition("\n")[0]
        first.append((words.removeprefix("# "), name.lower(), told))
    first += [("API", "api", "What `import golf` offers, by part.")] if with_api else []
    groups = {"Start here": first}
    for name, paths in chapters().items():
        groups[name] = [(title(p)[0], page(p), title(p)[1]) for p in paths]
    text = [f"# {heading}", f"> {lead}"]
    for name, links in groups.items():
        lines = [f"- [{words}]({place}.html): {told}" for words, place, told in links]
        text += [f"## {name}", "\n".join(lines)] if lines else []
    return "\n\n".join(text) + "\n"


def reference() -> str:
    """The sentence of the site's front page that leads to the lists of names."""
    offered = "[the API](/api.md) has what `import golf` offers; "
    every = "{ref}`the index <genindex>` has every definition of every chapter."
    return f"By name: {offered if surface(importlib.import_module('golf')) else ''}{every}"


# What stands in a cell


def directives(source: str) -> tuple[dict[str, str], str]:
    """The `#|` lines at the top of a code cell as a dictionary, and the code below them."""
    found, lines = {}, source.strip("\n").splitlines()
    while lines and (match := DIRECTIVE.match(lines[0].strip())):
        found[match[1]] = match[2].strip()
        lines.pop(0)
    return found, "\n".join(lines).strip("\n")


def definitions(source: str) -> dict[str, ast.AST]:
    """The functions and classes a cell defines, patched methods as `Class.method`."""
    found = {}
    for node in ast.parse(source).body if "%" not in source[:1] else []:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            patched = any(ast.unparse(d).startswith("patch") for d in node.decorator_list)
            first = [*node.args.posonlyargs, *node.args.args][:1] if patched else []
            owner = f"{ast.unparse(first[0].annotation)}." if first and first[0].annotation else ""
            found[owner + node.name] = node
    return found


def segments(source: str) -> list[tuple[str | None, str]]:
    """A cell cut before each definition that it documents: (name, code), comments going along."""
    lines, cuts = source.splitlines(), []
    for name, node in definitions(source).items():
        first = min([node.lineno, *[d.lineno for d in node.decorator_list]]) - 1
        while first and lines[first - 1].startswith("#"):
            first -= 1
        cuts.append((name, first))
    if not cuts or cuts[0][1] > 0:
        cuts.insert(0, (None, 0))
    ends = [first for _, first in cuts[1:]] + [len(lines)]
    parts = [(n, "\n".join(lines[a:b]).strip()) for (n, a), b in zip(cuts, ends, strict=True)]
    return [(name, code) for name, code in parts if code]


def only_imports(source: str) -> bool:
    """Whether a cell holds nothing but imports."""
    return all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.parse(source).body)


def parameters_of(arguments: ast.arguments) -> list[str]:
    """The parameters of a signature as text, `self` left out, the bare `*` and `/` kept."""
    named = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(named) - len(arguments.defaults)) + arguments.defaults
    texts = []
    for i, (argument, default) in enumerate(zip(named, defaults, strict=True)):
        texts.append(with_default(argument, default))
        if i + 1 == len(arguments.posonlyargs):
            texts.append("/")
    if arguments.vararg or arguments.kwonlyargs:
        texts.append("*" + (ast.unparse(arguments.vararg) if arguments.vararg else ""))
    texts += map(with_default, arguments.kwonlyargs, arguments.kw_defaults)
    if arguments.kwarg:
        texts.append("**" + ast.unparse(arguments.kwarg))
    return texts[1:] if named and named[0].arg == "self" else texts


def with_default(argument: ast.arg, default: ast.expr | None) -> str:
    """One parameter as it is written."""
    equals = " = " if argument.annotation else "="
    return ast.unparse(argument) + (equals + ast.unparse(default) if default else "")


def is_given(field: ast.AnnAssign) -> bool:
    """Whether a field of a dataclass is an argument of its constructor."""
    return "ClassVar" not in ast.unparse(field.annotation) and (
        field.value is None or "init=False" not in ast.unparse(field.value)
    )


def signature(name: str, node: ast.AST) -> str:
    """How a definition is called, from its source: on one line if it fits, else one line each."""
    if isinstance(node, ast.ClassDef):
        methods = {n.name: n for n in node.body if isinstance(n, ast.FunctionDef)}
        fields = [n for n in node.body if isinstance(n, ast.AnnAssign) and is_given(n)]
        if "__init__" in methods:
            texts = parameters_of(methods["__init__"].args)
        else:
            texts = [ast.unparse(n) for n in fields]
        word, ending = "class", ""
    else:
        marks = " ".join(map(ast.unparse, node.decorator_list))
        if "property" in marks or "as_prop" in marks:
            return f"{name}: {ast.unparse(node.returns) if node.returns else 'Any'}"
        texts = parameters_of(node.args)
        word, ending = "def", f" -> {ast.unparse(node.returns)}" if node.returns else ""
    if word == "class" and not texts:
        return f"class {name}"
    line = f"{word} {name}({', '.join(texts)}){ending}"
    if len(line) <= 84:
        return line
    return "\n".join([f"{word} {name}(", *[f"    {text}," for text in texts], f"){ending}"])


# From Quarto's notation to MyST's


def callout(match: re.Match) -> str:
    """The first lines of a Quarto callout as those of an admonition."""
    heading = re.search(r'title="([^"]*)"', match[2])
    words = heading[1] if heading else match[3] or match[1].title()
    dropdown = " dropdown" if 'collapse="true"' in match[2] else ""
    return f":::{{admonition}} {words}\n:class: {match[1]}{dropdown}\n\n"


def markdown(text: str, labels: set[str], home: Path = NOTEBOOKS) -> str:
    """Page text in MyST: callouts, links between chapters and to definitions, figures.

    `home` is the folder of the notebook, from which its links start; nbdev's start at the root.
    """

    def link(match: re.Match) -> str:
        words, target, anchor = match[1], match[2], (match[4] or "")[1:]
        if match[3] == "ipynb":
            target = page(Path(os.path.normpath(home / f"{target}.ipynb")))
        label = f"{target}.{anchor}".lower()
        if anchor and label in labels:
            return f"[{words}](#{label})"
        return f"[{words}](/{target}.ipynb)" if target in pages() else words

    text = LINK.sub(link, CALLOUT.sub(callout, text))
    text = re.sub(r"(?<=\))\{(?:target|style|\.)[^}]*\}", "", text)
    text = re.sub(r"\$\$\s*\{#([\w-]+)\}", r"$$ (\1)", text)
    text = re.sub(r"\]\((?:\.\./)+figures/", "](/figures/", text)
    for name in PLAIN:
        text = re.sub(rf"\]\((?:\.\./)+{name}\.md\)", f"](/{name.lower()}.md)", text)
    return text.replace('src="../figures/', 'src="figures/')


def api(name: str, node: ast.AST, shown: str, labels: set[str]) -> str:
    """The entry of one definition: heading, signature, and the text nbdev's `show_doc` gives it."""
    lines = [
        f"### `{name}`",
        "```python\n" + signature(name.split(".")[-1], node) + "\n```",
        markdown(shown, labels),
    ]
    return "\n\n".join(lines)


# From two notebooks to one page


class Page:
    """A notebook as its author wrote it beside the one nbdev made of it."""

    def __init__(self, path: Path, processed: Path):
        self.name, self.home = page(path), path.parent
        self.heading, self.lead = title(path)
        self.source = nbformat.read(path, as_version=4)
        cells = nbformat.read(processed, as_version=4).cells
        self.kept = {cell.id: cell for cell in cells}
        self.shown, self.targets = {}, set()
        for cell in cells:
            if cell.cell_type == "code" and (
                call := re.search(r"^show_doc\((.+?)[,)]", cell.source, re.MULTILINE)
            ):
                data = [output.get("data", {}) for output in cell.outputs]
                self.shown[call[1]] = "".join("".join(d.get("text/markdown", "")) for d in data)

    def labels(self) -> set[str]:
        """The names by which other pages can link to this one's definitions."""
        return {f"{self.name}.{name}".lower() for name in self.shown}

    def cells(self, labels: set[str]) -> list:
        """The cells of the page."""
        lead = (
            f"\n\n:::{{container}} lead\n{markdown(self.lead, labels, self.home)}\n:::"
            if self.lead
            else ""
        )
        found = [new_markdown_cell(f"# {self.heading}{lead}")]
        for cell in self.source.cells:
            options, code = directives(cell.source) if cell.cell_type == "code" else ({}, "")
            if "export" in options or "exports" in options:
                found += self.exported(code, labels)
            elif cell.id in self.kept:
                found += self.plain(self.kept[cell.id], labels)
        return found

    def exported(self, code: str, labels: set[str]) -> list:
        """A cell of the module: its public names documented, its source behind a fold."""
        if not code or only_imports(code):
            return []
        named, found, plain = definitions(code), [], []
        for name, part in segments(code):
            if name not in self.shown:
                plain.append(part)
                continue
            found += code_cells(plain)
            text = self.label(name) + api(name, named[name], self.shown[name], labels)
            source = new_code_cell(
                part, metadata={"tags": ["hide-input"], "mystnb": fold("Source")}
            )
            found += [new_markdown_cell(text), source]
        return found + code_cells(plain)

    def label(self, name: str) -> str:
        """What makes a definition a target and puts it into the index.

        Nothing for the second of two names that differ only by case.
        """
        label = f"{self.name}.{name}".lower()
        if label in self.targets:
            return ""
        self.targets.add(label)
        if re.search(r"(^|\.)_", name):  # private, or one of Python's own
            return f"({label})=\n"
        entry = f"single: {name} ({self.name.replace('/', '.')})"
        return f"```{{index}} {entry}\n```\n\n({label})=\n"

    def plain(self, cell, labels: set[str]) -> list:
        """Text, or a cell that shows something."""
        if cell.cell_type == "markdown":
            text = re.sub(r"<!-- WARNING: THIS FILE WAS AUTOGENERATED.*?-->", "", cell.source)
            if CHAPTERS in text:
                text = text.replace(CHAPTERS, chapter_table() + "\n\n" + reference())
            return [new_markdown_cell(markdown(text, labels, self.home))] if text.strip() else []
        if cell.cell_type != "code":
            return []
        options, code = directives(cell.source)
        if options.get("include") == "false" or (not code and not cell.outputs):
            return []
        if options.get("output") == "asis":
            texts = ["".join(o.get("data", {}).get("text/markdown", "")) for o in cell.outputs]
            return [new_markdown_cell(markdown(text, labels)) for text in texts if text]
        made = new_code_cell(code, outputs=[clean(o, labels) for o in cell.outputs])
        tags = {"remove-input": options.get("echo") == "false" or not code}
        imports = code.startswith(("import ", "from ")) and only_imports(code)
        tags |= {"hide-input": imports or options.get("code-fold") == "true"}
        tags |= {"remove-output": options.get("output") == "false"}
        made.metadata = {"tags": [tag for tag, on in tags.items() if on]}
        if tags["hide-input"]:
            made.metadata["mystnb"] = fold(
                options.get("code-summary", "Imports" if imports else "Code").strip("\"'")
            )
        return [made]


def code_cells(parts: list[str]) -> list:
    """One code cell of the pieces gathered so far, which are taken; none if there are none."""
    code = "\n\n\n".join(parts)
    parts.clear()
    return [new_code_cell(code)] if code else []


def fold(words: str) -> dict:
    """Words on the closed and on the open fold of a cell."""
    return {"code_prompt_show": words, "code_prompt_hide": words}


def clean(output, labels: set[str]):
    """A stored output without counters, its Markdown in MyST."""
    if "execution_count" in output:
        output.execution_count = None
    if "text/markdown" in output.get("data", {}):
        output.data["text/markdown"] = markdown("".join(output.data["text/markdown"]), labels)
    return output


def toctree(caption: str, pages: list[str]) -> str:
    """One group of the side bar."""
    names = "\n".join(pages)
    return f"```{{toctree}}\n:hidden:\n:caption: {caption}\n:maxdepth: 1\n\n{names}\n```"


# The public surface


def surface(package: ModuleType) -> dict[str, object]:
    """The names a package offers and what they stand for; empty while it names none."""
    return {name: getattr(package, name) for name in getattr(package, "__all__", ())}


def home_of(package: ModuleType, name: str, value: object) -> str:
    """The room that defines a public name, as `net.model`; empty if none of the package does."""
    root = package.__name__ + "."
    for module, loaded in sorted(sys.modules.items()):
        if module.startswith(root) and name in getattr(loaded, "__all__", ()):
            if getattr(loaded, name, None) is value:
                return module.removeprefix(root)
    module = getattr(value, "__module__", None) or ""
    return module.removeprefix(root) if module.startswith(root) else ""


def source_of(value: object) -> ast.AST | None:
    """The definition of a function or class in its module's text; None for any other value."""
    value = inspect.unwrap(getattr(value, "py_func", value))  # numba keeps the function there
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return None
    return ast.parse(textwrap.dedent(inspect.getsource(value))).body[0]


def constructor(value: type, root: str) -> ast.ClassDef:
    """A class with no more than its fields or `__init__`, inherited ones of the package first."""
    found = {}
    for base in reversed(value.__mro__):
        for node in source_of(base).body if base.__module__.startswith(root) else []:
            if isinstance(node, ast.AnnAssign):
                found[ast.unparse(node.target)] = node
            elif isinstance(node, ast.FunctionDef) and node.name == "__init__":
                found = {"__init__": node}
    body = list(found.values())
    return ast.ClassDef(name=value.__name__, bases=[], keywords=[], body=body, decorator_list=[])


def first_sentence(value: object) -> str:
    """The first sentence of a docstring, on one line."""
    text = inspect.getdoc(value) or ""
    return re.split(r"(?<=[.!?])\s", " ".join(text.split("\n\n")[0].split()), maxsplit=1)[0]


def api_entry(package: ModuleType, name: str, value: object, labels: set[str]) -> str:
    """One public name: a link to its place in a chapter, its first sentence, its signature."""
    room = home_of(package, name, value).replace(".", "/")
    label, words = f"{room}.{name}".lower(), f"`{name}`"
    if label in labels:
        words = f"[{words}](#{label})"
    elif room in pages():
        words = f"[{words}](/{room}.ipynb)"
    node = source_of(value)
    if node is None:
        return f"{words}\n: `{type(value).__name__}`\n"
    if isinstance(node, ast.ClassDef):
        node = constructor(value, package.__name__ + ".")
    code = textwrap.indent(f"```python\n{signature(name, node)}\n```", "  ")
    return f"{words}\n: {first_sentence(value)}\n\n{code}\n"


def api_page(package: ModuleType, labels: set[str]) -> str:
    """The page of all public names by part, in the order of parts and rooms; empty if none."""
    rooms = [page(p).split("/") for p in notebooks() if p.parent != NOTEBOOKS]
    placed = {part: [] for part in [*PARTS, ""]}
    for name, value in surface(package).items():
        part, _, room = home_of(package, name, value).partition(".")
        number = rooms.index([part, room]) if [part, room] in rooms else len(rooms)
        placed[part if part in PARTS else ""].append((number, name, value))
    lead = (
        f"What `import {package.__name__}` offers. A part is loaded when one of its names is first "
        "used. The name leads to its chapter; every definition of every chapter is in the "
        "{ref}`index <genindex>`."
    )
    text = [f"# API\n\n{lead}"]
    for part, found in placed.items():
        found.sort(key=lambda entry: entry[0])
        entries = [api_entry(package, name, value, labels) for _, name, value in found]
        text += [f"## {PARTS.get(part, 'Others')}", *entries] if entries else []
    return "\n\n".join(text) + "\n" if len(text) > 1 else ""


def stage(processed: Path, target: Path) -> list[Path]:
    """Write the pages of all processed notebooks to `target`; returns their paths."""
    nbbase.validate = lambda *_, **__: None  # a page is validated as a whole when it is written
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    if (ROOT / "figures").exists():
        shutil.copytree(ROOT / "figures", target / "figures")
    paths = [NOTEBOOKS / "index.ipynb", *notebooks()]
    paths = [p for p in paths if (processed / p.relative_to(NOTEBOOKS)).exists()]
    pages = [Page(p, processed / p.relative_to(NOTEBOOKS)) for p in paths]
    labels = set().union(*[p.labels() for p in pages])
    names = api_page(importlib.import_module("golf"), labels)
    if names:
        (target / "api.md").write_text(names, encoding="utf-8")
    for name in PLAIN:
        shutil.copy(ROOT / f"{name}.md", target / f"{name.lower()}.md")
    (target / "llms.txt").write_text(llms(bool(names)), encoding="utf-8")
    for each in pages:
        cells = each.cells(labels)
        if each.name == "index":
            groups = {name: list(map(page, found)) for name, found in chapters().items()}
            groups["Reference"] = [*(["api"] if names else []), "genindex", *map(str.lower, PLAIN)]
            trees = [toctree(name, found) for name, found in groups.items() if found]
            cells.append(new_markdown_cell("\n\n".join(trees)))
        made = nbformat.v4.new_notebook(cells=cells, metadata=each.source.metadata)
        for number, cell in enumerate(made.cells):
            cell.id = f"cell-{number}"
        (target / each.name).parent.mkdir(exist_ok=True)
        nbformat.write(made, target / f"{each.name}.ipynb")
    return [target / f"{p.name}.ipynb" for p in pages]


class Entry:
    """What nbdev's `show_doc` shows here: the docstring; the signature is taken from the source."""

    def __init__(self, symbol, **options):
        self.text = inspect.getdoc(symbol) or ""

    def _repr_markdown_(self) -> str:
        return self.text


def process() -> Path:
    """Let nbdev link all notebooks and document their names; returns the folder it fills.

    All happens in this process. A cell that imports something among other things is not executed
    for its import.
    """
    from nbdev import processors, showdoc
    from nbdev.serve import proc_nbs

    nbdev_executes = processors._do_eval

    def executes(cell) -> bool:
        if not nbdev_executes(cell):
            return False
        exported = {name.strip(":") for name in cell.directives_} & {"export", "exports", "exporti"}
        return bool(exported) or "show_doc(" in cell.source or only_imports(cell.source)

    processors._do_eval, showdoc.BasicMarkdownRenderer = executes, Entry
    HistoryManager.enabled = False  # else every notebook opens a data base for its cells
    warnings.filterwarnings("ignore", "Found cells containing imports")
    os.chdir(ROOT)
    return Path(proc_nbs(force=True, n_workers=0))


def main() -> None:
    """Process all notebooks with nbdev and stage the site's pages."""
    made = stage(process(), ROOT / "_proc" / "site")
    print(f"{len(made)} pages in _proc/site")
    gc.freeze()  # else each notebook's shell, on its end, looks at every object there is: a minute


if __name__ == "__main__":
    main()
