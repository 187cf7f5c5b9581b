"""From a recording to a repair.

`capture` freezes evidence, `case` makes tables of it, `evidence` asks questions, `causes` weighs the findings,
`remedies` plans the repair, `recovery` judges what followed, `postmortem` looks back.
"""

__all__ = ["capture", "case", "causes", "evidence", "onset", "plans", "postmortem", "ranking", "recovery", "remedies"]
