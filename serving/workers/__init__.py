"""Work on files that cannot be trusted, done in processes of its own, so that what a file does to one stays there.

`pool` runs in the pod, `child` in its worker processes, `wire` is what they say to each other. What the work is, a
transformer's own modules know. Not for engines, which are as trusted as the pod.
"""
