"""The inference data plane's router: a process of its own in front of the endpoints' replicas.

It follows the route table (``localml.core.serving.routes_table``) and tells its counts
(``localml.core.serving.gateway_stats``), both files; it needs nothing else of the control plane, so serving goes on
while that is down.

HTTP is done by httptools (Node's llhttp) on uvloop, on both sides. aiohttp was measured first, as server and client it
added 0.73 ms to a small request on a busy machine of 2.5 GHz, the same work on the parser alone 0.23 ms and a quarter
of the CPU time; the budget is 0.5 ms. It also leaves the choices of a proxy to us: when an answer is cut, when reading
stops, what is sent again.
"""
