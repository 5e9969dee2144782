"""HTTP/1 for both of localml's servers: the gateway's proxy and the control plane's WSGI apps.

``connection`` turns a client's bytes into requests (``request``), one after the other, with ``wire`` and ``headers``
below it; the gateway takes these. ``server`` answers requests with a WSGI app on a few threads (``workers``, ``call``),
and sees to the rest on its event loop: heads, small bodies, slow readers, and answers that wait (``held``).

HTTP is done by httptools (Node's llhttp) on uvloop. ``docs/http-server.md`` has what was measured beside it, and why
no other WSGI server would do.
"""
