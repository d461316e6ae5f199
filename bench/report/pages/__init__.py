"""What a reader opens: a device's README.md, the interactive page, the download, citations.

Import `device_page` for the first, `page` for the second; `facts` has a run's facts as sentences.
"""
