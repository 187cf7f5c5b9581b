"""Pages of executed notebooks.

`publish` copies them, `page` and `story` make them, `clean` makes them safe, and `site` builds them all, by `quarto` or
by `fallback`.
"""
