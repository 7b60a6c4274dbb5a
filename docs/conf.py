"""How Sphinx builds the pages in this folder; ``make docs`` calls it."""

project = "unilab-harness"
extensions = ["myst_parser"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "unilab-harness"
html_show_sphinx = html_show_copyright = False
html_copy_source = False
myst_heading_anchors = 3  # links to headings look as they do on a forge
html_static_path = ["_static"]
html_css_files = ["tables.css"]
