"""What a kernel of ours does first: it can import modules beside the notebook and the subjects, and keeps SVG.

A run works in a folder of its own, so that its files are its own. What JupyterLab finds in the notebook's folder is
found otherwise: modules by `import`, files by `lk.input` and `lk.path`, as a failed `open` says.
"""

from __future__ import annotations

VARIABLE = "LEPTON_NOTEBOOK_DIR"
STARTUP = """
def _lepton_startup():
    import os, sys
    beside, project = os.environ.get("LEPTON_NOTEBOOK_DIR"), os.environ.get("LEPTON_PROJECT")
    if not beside or not project:
        return
    if beside not in sys.path:
        sys.path.insert(1 if sys.path[:1] == [""] else 0, beside)
    if project not in sys.path:
        sys.path.append(project)  # its subjects
    try:
        from lepton_kit.runs.figures import also_as_svg
        also_as_svg(get_ipython())
    except ImportError:
        pass

    def with_advice(shell, kind, error, trace, tb_offset=None):
        # Not every library says which file it was, but in its words.
        names = [error.filename] if error.filename else str(error).replace("'", " ").split()
        for name in names:
            if not isinstance(name, str) or os.path.isabs(name) or not os.path.exists(os.path.join(beside, name)):
                continue
            path = os.path.relpath(os.path.join(beside, name), project)
            advice = (
                "a run works in a folder of its own, not beside its notebook: "
                f"write lk.input({path!r}), or lk.path({path!r}) for what is no input"
            )
            if error.filename:
                error.strerror = f"{error.strerror} ({advice})"
            else:
                error.args = (f"{error} ({advice})",)
            break
        shell.showtraceback((kind, error, trace), tb_offset=tb_offset)

    get_ipython().set_custom_exc((FileNotFoundError,), with_advice)

try:
    _lepton_startup()
finally:
    del _lepton_startup
"""
"""Source for IPython, that needs nothing of the kit: the kernel may be another Python's."""
