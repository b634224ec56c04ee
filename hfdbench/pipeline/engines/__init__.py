"""What does the work of a run: this process, processes of this machine, actors of a Ray cluster.

A unit of work is one stage of a part of the images of one key: features of a dataset's originals, encoding, or decoding with
measuring. What it computes it commits itself, piece by piece, into the results folder; the driver has a queue of units, and
merges. So engines may mix, a unit may be done twice, and a driver that is killed loses nothing but its queue.
"""
