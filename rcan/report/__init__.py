"""Reports: what a training or a study has found, as one HTML file that needs nothing else.

`Page` knows how a report looks and nothing of what it says; `methods` knows the words. A report opens from the disk
in any browser, asks no server for anything, and can be sent as it is.
"""
