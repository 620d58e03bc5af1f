"""Reports: what a training or a study has found, as one HTML file that needs nothing else.

`page` lays a report out, with charts (`svg`) and volumes (`viewer`), and knows nothing of what it says; `text` and
`methods` put results into words; `training`, `evaluation` and `limits` are the three reports. `finish` scores a network
that has been trained, and writes its report. A report opens from the disk in any browser, asks no server for anything,
and can be sent as it is.
"""
