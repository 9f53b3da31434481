"""How good the search is: optimizers and what other tools do, at equal cost, against the truth.

``python -m tests.benchmarks.search`` runs it all; ``... .truth RUN_DIR`` judges searches that were made.
"""
