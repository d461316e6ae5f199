"""What a reader opens: a device's README.md and download, the interactive page, citations.

Import `device_page` for the first two, `page` for the third, `cite` for the last.
"""
