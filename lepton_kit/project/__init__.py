"""One project: its settings, the services that it declares, and its pipelines."""

__all__ = ["begin", "declarations", "doctor", "pipeline", "settings", "subjects"]
