"""Finding what fails silently: `meta-rl doctor`.

Evidence is gathered first, then judged: one function a check, in one file for each group. Every
limit has its reason beside it; "recorded runs" are those in results/.
"""
