"""What `capture` notes in a recording's provenance, in words that the diagnosis looks for."""

CHECKSUMS_HOLD = "their checksums hold"
CHECKSUMS_BROKEN = "its checksums do not hold"
