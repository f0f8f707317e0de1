"""One self-contained HTML page from what runs have saved: files -> arms -> sections -> page.

`saved_run` and `saved_sweep` read, `arms` groups runs, `statistics` compares them, `sections/` say what to see, `page`
renders. Every number comes from a file of a run; no model is loaded and nothing is measured again.
"""
