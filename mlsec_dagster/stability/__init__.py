"""How a dataset looks, compared with how it has looked before; knows no Dagster.

    frame = learn_frame(table, roles)                     # which columns there are, and the bins that their values are counted in
    profile, sample = measure(table, frame, roles, key)   # one window: counts, bins, moments, duplicates, a small sample
    verdict = decide(window, history, settings)           # the window against those before it

`docs/stability.md` tells the method, with its sources, and what it cannot see.
"""
