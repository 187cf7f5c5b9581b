"""Pages of executed notebooks.

`publish` copies them, `page` and `story` make them, `clean` makes them safe, and `site` puts them into a `frame`, which
`quarto` or a template makes.
"""

__all__ = ["clean", "facts", "frame", "listings", "page", "publish", "quarto", "search", "site", "story"]
