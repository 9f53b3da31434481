"""What kernels are made of; no method is declared in here.

The language of entry functions is ``entrywise`` with its ``leaves``. A merge written in it runs as one
of two ``passes``: ``tiled`` (torch, anywhere) or ``compiled`` (the CPU), for which ``translation``,
``codegen`` and ``compiler`` make code. What a kernel plans from are the ``operands``, their ``facts``,
``norms`` and ``order_statistics``. The rest are steps that several methods share.
"""
