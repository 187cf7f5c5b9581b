"""The commands of `lepton`, a module for each group; `lepton_kit.cli` joins them, and has those that run notebooks."""

__all__ = ["act", "approve", "begin", "demo", "drill", "incidents", "objectives", "reports", "serving", "watch"]
