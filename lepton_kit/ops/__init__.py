"""What acts on services.

`operator` does and undoes, `repairs` carries out plans, `deployment` brings new versions, `drills` and `live_drills`
break a service on purpose (`faults`). `watch` is `lepton watch`.
"""

__all__ = ["deployment", "drills", "faults", "live_drills", "operator", "repairs", "service_operator", "watch"]
