"""What does the work of a run: this process, processes of this machine, actors of a Ray cluster.

A unit of work is a shard: a part of the images of every dataset through all stages, done by `run` as any shard is. What it
computes it commits itself, piece by piece, into the results folder; the driver has a queue of units, and merges. So engines
may mix, a unit may be done twice, and a driver that is killed loses nothing but its queue.
"""
