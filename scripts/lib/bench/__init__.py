"""The budgets of speed and memory, each measured beside its floor in the same run.

The floor is the least that any implementation must spend: the bare Docker SDK, a bare process, a bare SQLite commit, a
bare web app with one commit (F). Machines are shared and noisy, so the ratio to the floor says more than the
milliseconds; what is compared is measured in turns.

What goes over HTTP is measured at a real ``localml up`` through a plain socket that keeps its connection, with the
authentication of each API, so that little of what is measured is the client's own work.
"""
