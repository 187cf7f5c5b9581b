"""One project: its settings, the services that it declares, and its pipelines."""
