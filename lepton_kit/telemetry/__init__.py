"""What is known of a service.

Its `declaration`, `signals` and objectives (`slo`, `burn_rates`), where samples are (`store`, `prometheus`, `scrape`),
its rows (`readers`, `rows`), its log (`logs`), and the evidence of an incident (`recordings`).
"""

__all__ = ["alerts", "declaration", "health", "logs", "prometheus", "readers", "recordings", "signals", "slo", "store"]
