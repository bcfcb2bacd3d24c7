"""What folding must not change: what a class can do, what help shows, what the notebooks say."""

import ast
import copy
import importlib.util
import inspect
import io
import re
import shutil
import subprocess
import sys
import textwrap
import tokenize
from collections import Counter
from contextlib import suppress
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
KINDS = {"as_prop": "property", "cls_method": "classmethod", "static_method": "staticmethod"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def load_tool():
    """tools/export.py, which is in no package."""
    spec = importlib.util.spec_from_file_location("tools_export", ROOT / "tools" / "export.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


tool = load_tool()


def fold(source: str) -> str:
    """A module, given without its import of patch, folded."""
    text = "from fastcore.basics import patch\n" + textwrap.dedent(source)
    found = tool.fold(text, "golf/small.py")
    assert tool.fold(found) == found, "folding twice changes the text"
    assert "patch" not in found
    return found


def run(text: str) -> dict:
    """What a module defines, made without fastcore."""
    space = {"__name__": "small"}
    exec(compile(text, "small.py", "exec"), space)
    return space


# What a class can do


def test_a_class_has_its_methods_in_the_order_of_the_notebook():
    text = fold("""
        class Model:
            width = 2

            def area(self):
                return self.width * self.height()

        class Other:
            pass

        @patch
        def height(self: Model) -> int:
            return 3

        @patch
        async def later(self: Other): return 1

        x = Model().area()

        @patch
        def depth(self: "Model", by: int = 1, /, *rest, times=2, **more): return by * times
    """)
    space = run(text)
    assert [n for n in vars(space["Model"]) if n[0] != "_"] == ["width", "area", "height", "depth"]
    assert space["x"] == 6
    assert space["Model"]().depth(4) == 8
    assert (
        str(inspect.signature(space["Model"].depth))
        == "(self, by: int = 1, /, *rest, times=2, **more)"
    )
    assert inspect.iscoroutinefunction(space["Other"].later)
    assert space["Model"].depth.__qualname__ == "Model.depth"
    assert "depth" not in space


def test_properties_class_methods_and_static_methods_stay_what_they_are():
    space = run(
        fold("""
        class Model:
            size = 2

        @patch(as_prop=True)  # cheap
        def area(self: Model) -> int:
            return self.size**2

        @patch(
            cls_method=True,
        )
        def make(cls: Model, size: int) -> Model:
            made = cls()
            made.size = size
            return made

        @patch(static_method=True)
        def size_of(model: Model) -> int:
            return model.size
    """)
    )
    made = space["Model"].make(3)
    assert (made.area, space["Model"].size_of(made)) == (9, 3)
    assert isinstance(vars(space["Model"])["size_of"], staticmethod)


def test_a_function_keeps_its_other_decorators():
    space = run(
        fold("""
        import functools
        from contextlib import contextmanager

        class Model:
            def __init__(self):
                self.said = []

        @patch
        @contextmanager
        def saying(self: Model, word: str):
            self.said.append(word)
            yield self
            self.said.append("end")

        @patch
        @functools.cached_property
        def many(self: Model) -> list:
            return [len(self.said)]
    """)
    )
    model = space["Model"]()
    with model.saying("begin") as same:
        assert same is model
    assert model.said == ["begin", "end"]
    assert model.many is model.many


def test_a_class_on_one_line_and_one_that_ends_in_a_comment_can_grow():
    text = fold("""
        class Error(Exception): code = "é"; other = 2  # both

        class Model:
            width = 2
            # height = 3

        @patch
        def text(self: Error) -> str: return self.code

        @patch
        def area(self: Model) -> int:
            return self.width
            # times its height
    """)
    space = run(text)
    assert space["Error"]().text() == "é"
    assert space["Model"]().area() == 2
    assert text == textwrap.dedent("""\
        class Error(Exception):
            code = "é"; other = 2  # both

            def text(self) -> str: return self.code

        class Model:
            width = 2
            # height = 3

            def area(self) -> int:
                return self.width
                # times its height
    """)


def test_a_class_of_another_indentation_can_grow():
    space = run(fold("class Model:\n  width = 2\n\n@patch\ndef f(self: Model):\n    return 1\n"))
    assert space["Model"]().f() == 1


def test_a_super_call_works():
    space = run(
        fold("""
        class Base:
            def size(self): return 1

        class Model(Base): ...

        @patch
        def size(self: Model): return super().size() + 1
    """)
    )
    assert space["Model"]().size() == 2


def test_the_module_imports_where_an_annotation_names_a_later_class():
    text = fold("""
        from typing import Literal

        class Model:
            "A model."

        class Pass:
            "One pass."

        @patch
        def run(self: Model, given: dict[str, Pass], *more: Pass, last: Pass | None = None,
                kind: Literal["a", 'b'] | Pass = "a", é: Model | None = None, **others: Pass) -> Model:
            own: Pass = given
            return self

        @patch
        def said(self: Model, how: Literal["it's", "\\n"] | Pass): ...

        @patch
        def both(
            self: Pass,
            other: dict[
                str, Pass
            ],
            model: Model,
        ) -> int: ...
    """)
    assert 'given: dict[str, "Pass"]' not in text
    assert '(self, given: "dict[str, Pass]", *more: "Pass", last: "Pass | None" = None,' in text
    assert (
        """kind: "Literal['a', 'b'] | Pass" = "a", é: "Model | None" = None, **others: "Pass")"""
        in text
    )
    assert "own: Pass = given" in text
    assert 'other: "dict[str, Pass]",' in text
    assert "model: Model" in text  # defined above Pass
    space = run(text)
    hints = inspect.get_annotations(space["Model"].run, eval_str=True)
    assert hints["return"] is hints["é"].__args__[0] is space["Model"]
    how = inspect.get_annotations(space["Model"].said, eval_str=True)["how"]
    assert how.__args__[0].__args__ == ("it's", "\n")


def test_nothing_is_quoted_where_annotations_are_never_evaluated():
    text = tool.fold(
        "from __future__ import annotations\nfrom fastcore.basics import patch\n\n"
        "class Model: ...\n\n@patch\ndef same(self: Model) -> Model: ...\n"
    )
    assert "def same(self) -> Model: ..." in text


# What help, strings and comments say


def test_help_shows_the_same_and_strings_keep_their_value():
    source = '''
        """Strings."""

        class Model:
            """A model."""

        @patch
        def text(self: Model, name: str) -> list:
            """One line.

            - a list
              that goes on

            Raises nothing.
            """
            def inner():
                """Inner.

                More.
                """
            plain = """first
        second
            third"""
            several = ("one"
                       "two")
            joined = "a\\
        b"
            return [plain, several, joined, f"""{
        name}
          é {name!r:>8} {[
        "nested"]}
        """, rb"""\\d
        \\s""", inner.__doc__]
    '''
    bare = textwrap.dedent(source)
    space = run(re.sub("@patch\n", "", bare).replace("self: Model", "self"))
    text = fold(source)
    model = run(text)["Model"]
    assert model().text("x")[:-1] == space["text"](None, "x")[:-1]
    assert inspect.cleandoc(model().text("x")[-1]) == inspect.cleandoc(space["text"](None, "x")[-1])
    assert inspect.getdoc(model.text) == inspect.getdoc(space["text"])
    assert "\n        - a list\n          that goes on\n\n" in text
    assert '\n                   "two")' in text


def test_a_docstring_joined_by_a_backslash_shows_the_same():
    source = (
        "class Model: ...\n\n@patch\ndef f(self: Model):\n    '''One \\\nline.\n\n    End.'''\n"
    )
    assert inspect.getdoc(run(fold(source))["Model"].f) == "One line.\n\nEnd."


def test_comments_and_fmt_skip_are_not_lost():
    text = fold("""
        class Model:  # of language
            width = 2

        # Rows and columns:
        # both at once.
        @patch  # as in the chapter
        # a second remark
        def shape(
            self: Model,  # itself
            rows: int, columns: int,  # two
        ) -> tuple:  # fmt: skip
            # nothing else
            return rows, columns  # a pair

            # and an end


        # Not of the method.
        x = 1
    """)
    assert text == textwrap.dedent("""\
        class Model:  # of language
            width = 2

            # Rows and columns:
            # both at once.
            # as in the chapter
            # a second remark
            def shape(
                self,  # itself
                rows: int, columns: int,  # two
            ) -> tuple:  # fmt: skip
                # nothing else
                return rows, columns  # a pair

                # and an end


        # Not of the method.
        x = 1
    """)


CELLS = '''\
"""Cells."""

# AUTOGENERATED! DO NOT EDIT! File to edit: ../nbs/10_small.ipynb.

# %% auto #0
__all__ = ['Model', 'helper']

# %% ../nbs/10_small.ipynb #aaaa
import math

from fastcore.basics import patch, store_attr  # both

# %% ../nbs/10_small.ipynb #bbbb
class Model:
    """A model."""


@patch
def first(self: Model): ...


def helper(): ...

# %% ../nbs/10_small.ipynb #cccc
@patch
def second(self: Model): ...


@patch
def third(self: Model): ...

# %% ../nbs/10_small.ipynb #dddd
def before(): ...


@patch(as_prop=True)
def fourth(self: Model): ...


TEXT = """
# %% ../nbs/10_small.ipynb #no marker
"""

# %% ../nbs/10_small.ipynb #eeee
@patch
def fifth(self: Model): ...
'''

FOLDED = '''\
"""Cells."""

# AUTOGENERATED! DO NOT EDIT! File to edit: ../nbs/10_small.ipynb.

# %% auto #0
__all__ = ['Model', 'helper']

# %% ../nbs/10_small.ipynb #aaaa
import math

from fastcore.basics import store_attr  # both

# %% ../nbs/10_small.ipynb #bbbb
class Model:
    """A model."""

    def first(self): ...

    # %% ../nbs/10_small.ipynb #cccc
    def second(self): ...

    def third(self): ...

    # %% ../nbs/10_small.ipynb #dddd
    @property
    def fourth(self): ...

    # %% ../nbs/10_small.ipynb #eeee
    def fifth(self): ...


def helper(): ...

# %% ../nbs/10_small.ipynb #dddd
def before(): ...


TEXT = """
# %% ../nbs/10_small.ipynb #no marker
"""
'''


def test_every_method_says_which_cell_it_is_from_and_no_cell_is_left_empty():
    assert tool.fold(CELLS) == FOLDED
    assert tool.fold(FOLDED) == FOLDED


def test_a_module_without_patches_is_left_as_it_is():
    text = "from unittest.mock import patch\n\n\n\n\n@patch('a.b')\ndef f(one): ...\n\n"
    assert tool.fold(text) == text


def test_the_package_needs_no_fastcore():
    assert fold("import math\n") == "import math\n"
    text = tool.fold(
        "from fastcore.basics import (\n    L,\n    patch as add,\n)\nfrom math import pi\n\n"
        "class Model: ...\n\n@add\ndef f(self: Model): ...\n"
    )
    assert text.startswith("from fastcore.basics import L\nfrom math import pi\n\nclass Model:")
    assert "@add" not in text


# What would be another thing inside the class

MODEL = "class Model:\n    width: int = 2\n    height: int\n\n    def area(self): ...\n\n"
REFUSED = {
    "a class of elsewhere": ("@patch\ndef f(self: dict): ...", "dict is no class"),
    "a class of another module": ("@patch\ndef f(self: np.ndarray): ...", "np.ndarray is no class"),
    "a class defined below": ("@patch\ndef f(self: Low): ...\nclass Low: ...", "Low is no class"),
    "a class inside another block": (
        "if True:\n    class Low: ...\n\n@patch\ndef f(self: Low): ...",
        "Low is no class",
    ),
    "two classes": ("@patch\ndef f(self: Model | dict): ...", "not one class"),
    "two classes in a tuple": ("@patch\ndef f(self: (Model, dict)): ...", "not one class"),
    "no class": ("@patch\ndef f(self, x: Model): ...", "names no class"),
    "a method that exists": ("@patch\ndef area(self: Model): ...", "already has area"),
    "a field with a default": ("@patch\ndef width(self: Model): ...", "already has width"),
    "a field": ("@patch\ndef height(self: Model): ...", "already has height"),
    "a method patched twice": (
        "@patch\ndef f(self: Model): ...\n\n@patch\ndef f(self: Model): ...",
        "already has f",
    ),
    "a private name": ("@patch\ndef f(self: Model): return self.__x", "__x is another name"),
    "a private function": ("@patch\ndef __f(self: Model): ...", "__f is another name"),
    "a private local": (
        "@patch\ndef f(self: Model):\n    for __i in []: pass",
        "__i is another name",
    ),
    "a private argument": ("@patch\ndef f(self: Model): g(__x=1)", "__x is another name"),
    "a later default": ("X = 1\n\n@patch\ndef f(self: Model, x=X): ...", "X is defined only after"),
    "a later default by keyword": (
        "from math import pi\n\n@patch\ndef f(self: Model, *, x=pi): ...",
        "pi is defined only after",
    ),
    "a default from below": (
        "@patch\ndef f(self: Model, x=LOW): ...\n\nLOW = 1",
        "LOW is defined only after",
    ),
    "the class as a default": (
        "@patch\ndef f(self: Model, x=Model()): ...",
        "Model is defined only after",
    ),
    "a default set anew": (
        "THEN = 2\n\n@patch\ndef f(self: Model, x=THEN): ...",
        "THEN is defined only after",
    ),
    "a later decorator": (
        "def twice(f): ...\n\n@patch\n@twice\ndef f(self: Model): ...",
        "twice is defined only after",
    ),
    "a protocol": ("@patch\ndef f(self: Way): ...", "Way is a Protocol"),
    "a generic protocol": ("@patch\ndef f(self: Ways): ...", "Ways is a Protocol"),
    "equality without a hash": (
        "@patch\ndef __eq__(self: Model, other): ...",
        "read when the class",
    ),
    "patch below another decorator": (
        "@cache\n@patch\ndef f(self: Model): ...",
        "above its other decorators",
    ),
    "a setter": ("@patch(set_prop=True)\ndef f(self: Model, x): ...", "only one of as_prop"),
    "a switch that is computed": (
        "@patch(as_prop=bool(1))\ndef f(self: Model): ...",
        "only one of",
    ),
    "a patch in a block": ("if True:\n    @patch\n    def f(self: Model): ...", "only @patch on"),
    "a patch by a call": ("patch(len)", "only @patch on"),
    "patch_to": (
        "from fastcore.basics import patch_to\n\n@patch_to(Model)\ndef f(self): ...",
        "only @patch on",
    ),
    "fastcore by its name": (
        "import fastcore.basics as fb\n\n@fb.patch\ndef f(self: Model): ...",
        "write from fastcore.basics import patch",
    ),
    "all of fastcore": ("from fastcore.all import *", "write from fastcore.basics import patch"),
    "a default that a method hides": (
        "@patch\ndef list(self: Model): ...\n\n@patch\ndef f(self: Model, make=list): ...",
        "list is Model.list inside the class body",
    ),
    "a default that a field hides": (
        "@patch\ndef f(self: Named, x=max): ...",
        "max is Named.max inside the class body",
    ),
    "an annotation that a field hides": (
        "@patch\ndef f(self: Named) -> max: ...",
        "max is Named.max inside the class body",
    ),
    "an annotation that a method hides": (
        "@patch\ndef f(self: Model, x: list[bytes]): ...\n\n@patch\ndef bytes(self: Model): ...",
        "bytes is Model.bytes inside the class body",
    ),
    "an annotation of the class that a method hides": (
        "@patch\ndef int(self: Model): ...",
        "an annotation that means another int",
    ),
    "property hidden by a method": (
        "@patch\ndef property(self: Model): ...\n\n@patch(as_prop=True)\ndef f(self: Model): ...",
        "property is Model.property inside the class body",
    ),
}
ABOVE = """\
from functools import cache
from typing import Protocol, TypeVar
from fastcore.basics import patch

THEN, T = 1, TypeVar("T")

class Way(Protocol): ...

class Ways(Protocol[T]): ...

class Named:
    max = None

"""


@pytest.mark.parametrize("case", REFUSED)
def test_a_patch_that_would_change_its_meaning_is_refused(case):
    source, why = REFUSED[case]
    text = ABOVE + MODEL + source + "\n"
    with pytest.raises(tool.FoldError, match=re.escape(why)) as caught:
        tool.fold(text, "golf/small.py")
    place, line, _ = str(caught.value).split(":", 2)
    assert place == "golf/small.py"
    added = text.splitlines()[int(line) - 1]
    assert added in source, "the line named is not the one at fault"


def test_a_name_that_hides_another_is_not_refused_where_nothing_reads_it():
    space = run(
        fold("""
        import dataclasses
        from typing import Any

        LIMIT = 1

        @dataclasses.dataclass
        class Model:
            bytes: Any
            parts: Any = dataclasses.field(default_factory=list)
            total: int = sum(n for n in (1, 2))

        def helper(): return LIMIT

        @patch
        def list(self: Model, n: int = 1) -> int:
            __doc__ = "dunder names are fine"
            return len([*map(max, [[1]])])

        @patch
        def max(self: Model, x: bytes = b"", key=lambda m: helper()): return max([1, key(self)])

        @patch
        def next(self: Model, x: int = LIMIT): return next(iter([list((x,))]))

        @patch
        def n(self: Model): return self.total

        LIMIT += 1
    """)
    )
    assert space["Model"](b"").next() == [1]
    assert space["Model"](b"").max() == 2
    assert space["Model"](b"").n() == 3
    assert inspect.signature(space["Model"].max).parameters["x"].annotation is bytes


# The command


def notebook(path: Path, *cells: str) -> None:
    """A notebook whose cells are exported; the first names the module."""
    module, *others = cells
    nodes = [nbformat.v4.new_markdown_cell("# Small\n\n> A small one.")]
    nodes.append(nbformat.v4.new_code_cell(f"#| default_exp {module}"))
    nodes += [nbformat.v4.new_code_cell(f"#| export\n{cell}") for cell in others]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=nodes), path)


IMPORT, CLASS = "from fastcore.basics import patch", "class Model:\n    width = 2"
METHOD = "@patch\ndef area(self: Model) -> int:\n    return self.width**2"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of one flat module and one in a subpackage, as the present folder."""
    settings = (ROOT / "settings.ini").read_text(encoding="utf-8")
    settings = re.sub("recursive = .*", "recursive = True", settings)
    (tmp_path / "settings.ini").write_text(settings, encoding="utf-8")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "golf" / "models").mkdir(parents=True)
    (tmp_path / "golf" / "models" / "large.golf").write_bytes(b"large")
    notebook(tmp_path / "nbs" / "10_small.ipynb", "small", IMPORT, CLASS, METHOD)
    notebook(tmp_path / "nbs" / "base" / "00_files.ipynb", "base.files", IMPORT, CLASS, METHOD)
    notebook(tmp_path / "nbs" / "base" / "01_plain.ipynb", "base.deep.plain", "x = 1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a project by its path."""
    paths = [p for p in folder.rglob("*") if p.is_file()]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths}


def problems(arguments: list[str]) -> list[str]:
    """What the command says when it fails."""
    with pytest.raises(SystemExit) as caught:
        tool.main(arguments)
    return str(caught.value.code).splitlines()


def test_the_command_writes_a_folded_package_and_check_tells_when_it_is_not(project, capsys):
    before = contents(project)
    missing = problems(["--check"])
    assert contents(project) == before
    assert "golf/base/files.py: missing; run make export" in missing
    assert "golf/base/__init__.py: missing; run make export" in missing

    capsys.readouterr()
    tool.main([])
    assert capsys.readouterr().out == "2 methods folded in 2 modules\n"
    written = contents(project)
    assert before.items() <= written.items()
    small, deep = (project / "golf" / name for name in ("small.py", "base/files.py"))
    assert (project / "golf/base/deep/__init__.py").exists()
    assert "    # %% ../../nbs/base/00_files.ipynb #" in deep.read_text(encoding="utf-8")
    assert run(small.read_text(encoding="utf-8"))["Model"]().area() == 4
    assert "golf.base.files.Model.area" in (project / "golf/_modidx.py").read_text(encoding="utf-8")

    times = {p: p.stat().st_mtime_ns for p in (project / "golf").rglob("*.py")}
    small.write_text(small.read_text(encoding="utf-8") + "x = 1\n", encoding="utf-8")
    (project / "golf" / "gone.py").write_text(f"{tool.GENERATED}\n", encoding="utf-8")
    assert problems([]) == ["golf/gone.py: no notebook makes it; delete it"]
    (project / "golf" / "gone.py").unlink()
    changed = [p for p, time in times.items() if p.stat().st_mtime_ns != time]
    assert changed == [small]
    assert contents(project) == written

    tool.main(["--check"])
    bare = tool.bare_export(project, project / "copy")
    shutil.copy(bare / "small.py", small)
    deep.write_text(deep.read_text(encoding="utf-8") + "x = 1\n", encoding="utf-8")
    shutil.rmtree(project / "copy")
    assert problems(["--check"]) == [
        "golf/base/files.py: differs from the notebooks; run make export",
        "golf/small.py: made by a bare nbdev_export; run make export",
    ]


def test_a_refused_patch_leaves_the_package_as_it_was(project):
    twice = [IMPORT, CLASS, METHOD, METHOD]
    notebook(project / "nbs" / "10_small.ipynb", "small", *twice)
    notebook(project / "nbs" / "base" / "00_files.ipynb", "base.files", *twice)
    before = contents(project)
    said = problems([])
    assert [re.sub(r":\d+:", "", line) for line in said] == [
        "golf/base/files.py area: Model already has area",
        "golf/small.py area: Model already has area",
    ]
    assert contents(project) == before


def test_the_command_says_what_stops_it(tmp_path):
    command = [sys.executable, ROOT / "tools" / "export.py", "--check"]
    options = {"cwd": tmp_path, "capture_output": True, "text": True, "check": False}
    done = subprocess.run(command, **options)
    assert done.returncode == 1
    assert "run this from the project's root" in done.stderr


# The package itself


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The text of each module of this package as nbdev alone makes it."""
    folder = tmp_path_factory.mktemp("bare")
    paths = sorted(tool.bare_export(ROOT, folder).rglob("*.py"))
    paths = [path for path in paths if path.name != "_modidx.py"]
    return {p.relative_to(folder).as_posix(): p.read_text(encoding="utf-8") for p in paths}


@pytest.fixture(scope="module")
def package(exported):
    """The text of each module before and after folding, those that are refused left out."""
    found = {}
    for name, text in exported.items():
        with suppress(tool.FoldError):
            found[name] = text, tool.fold(text, name)
    return found


def test_every_module_of_the_package_folds(exported):
    for name, text in exported.items():
        tool.fold(text, name)


def patch_of(node: ast.AST) -> ast.expr | None:
    """The patch decorator of a statement, if it has one."""
    found = [d for d in getattr(node, "decorator_list", []) if ast.unparse(d).startswith("patch")]
    return found[0] if found else None


def as_method(function: ast.AST) -> tuple[str, ast.AST]:
    """The class of a patched function, and the function as its method."""
    found, patch = copy.deepcopy(function), patch_of(function)
    kinds = [KINDS[k.arg] for k in getattr(patch, "keywords", [])]
    found.decorator_list[:1] = [ast.Name(kind, ast.Load()) for kind in kinds]
    first = [*found.args.posonlyargs, *found.args.args][0]
    owner = ast.unparse(first.annotation)
    first.annotation = None if kinds != ["staticmethod"] else first.annotation
    return owner, found


def normal(statement: ast.AST) -> str:
    """A statement's tree as text: annotations unquoted, docstrings as help shows them."""
    statement = copy.deepcopy(statement)
    for node in ast.walk(statement):
        for field in ("annotation", "returns"):
            value = getattr(node, field, None)
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                setattr(node, field, ast.parse(value.value, mode="eval").body)
    if isinstance(statement, FUNCTIONS) and ast.get_docstring(statement) is not None:
        statement.body[0].value.value = ast.get_docstring(statement)
    return ast.dump(statement)


def comments(text: str) -> Counter:
    """The comments of a module, the cell markers left out."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    found = [t.string for t in tokens if t.type == tokenize.COMMENT]
    return Counter(comment for comment in found if not comment.startswith("# %% "))


def test_every_method_of_the_package_is_folded_as_it_was_written(package):
    methods = 0
    for name, (bare, folded) in package.items():
        expected = {}  # what each statement and each class must be now
        others, now = [], ast.parse(folded).body
        for node in ast.parse(bare).body:
            if patch_of(node):
                owner, method = as_method(node)
                expected[owner].append(normal(method))
                methods += 1
            elif not (isinstance(node, ast.ImportFrom) and node.module == "fastcore.basics"):
                others.append(node)
                if isinstance(node, ast.ClassDef):
                    expected[node.name] = [normal(inner) for inner in node.body]
        assert len(others) == len(now), name
        for was, node in zip(others, now, strict=True):
            if isinstance(node, ast.ClassDef):
                assert [normal(inner) for inner in node.body] == expected[node.name], name
                was.body = node.body
            assert normal(was) == normal(node), name
    assert methods > 400


def test_no_module_of_the_package_patches_or_loses_a_comment(package):
    for name, (bare, folded) in package.items():
        compile(folded, name, "exec")
        for node in ast.walk(ast.parse(folded)):
            assert not patch_of(node), name
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                modules = [getattr(node, "module", "") or "", *(a.name for a in node.names)]
                assert not any(m.split(".")[0] == "fastcore" for m in modules), name
        assert comments(folded) == comments(bare), name
        assert tool.fold(folded, name) == folded, name


def test_every_cell_of_the_package_keeps_its_marker_once_it_holds_something(package):
    marker = re.compile(r"^ *(# %% \S+ #\S+)$", re.MULTILINE)
    for name, (bare, folded) in package.items():
        assert set(marker.findall(bare)) - set(marker.findall(folded)) == set(), name
        assert not re.search(r"^ *# %% .+\n+( *# %% |\Z)", folded, re.MULTILINE), name
        assert "\n\n\n\n" not in folded, name
