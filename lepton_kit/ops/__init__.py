"""What acts on services.

`operator` does and undoes, `repairs` carries out plans, `deployment` brings new versions, `drills` and `live_drills`
break a service on purpose (`faults`). `watch` is `lepton watch`.
"""
