"""The demo: a search over an embedded family of tiny models that needs no download."""
