"""Sphinx settings of the site; its pages are written by `notebooks.py` (see `make docs`)."""

import configparser
from pathlib import Path

settings = configparser.ConfigParser(interpolation=None)
settings.read(Path(__file__).resolve().parent.parent / "settings.ini")
settings = settings["DEFAULT"]

project = settings["title"]
author = settings["author"]
copyright = settings["copyright"]
version = release = settings["version"]
language = "en"

extensions = ["myst_nb", "sphinx_copybutton", "sphinx-mathjax-offline"]
nb_execution_mode = "off"  # the outputs shown are those stored in the notebooks
nb_merge_streams = True
nb_render_markdown_format = "myst"
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath", "attrs_inline"]
myst_heading_anchors = 3

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["_static"]
templates_path = ["_templates"]
html_baseurl = settings["doc_host"] + settings["doc_baseurl"] if settings["doc_host"] else ""
html_context = {"lead": settings["description"]}
html_css_files = ["golf.css"]
html_favicon = "_static/golf.svg"
html_copy_source = False
html_show_sourcelink = False
html_last_updated_fmt = None
html_theme_options = {
    "repository_url": f"https://github.com/{settings['user']}/{settings['repo']}",
    "repository_branch": settings["branch"],
    "use_repository_button": True,
    "show_toc_level": 2,
    "navbar_persistent": [],
    "use_download_button": False,
    "use_fullscreen_button": False,
    "footer_content_items": ["author", "copyright"],
    "home_page_in_toc": True,
}
CARD = "ttt_reset-fineweb10B_sp1024.png"  # shown where a link is shared
html_context |= {"card": CARD}
html_extra_path = ["../_proc/site/llms.txt", f"../figures/{CARD}"]  # the first for programs
