"""What operators see of our programs: metrics, health, the page to look at, the audit log.

Programs have modules of their own that say what is shown; here is what they share. Except for the
audit log and the recent events, nothing of this is imported unless ``--http`` is given.
"""
