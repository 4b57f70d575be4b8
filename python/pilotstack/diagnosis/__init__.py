"""Says what is wrong: with this host and its servers (``pilotctl doctor``), and with one peer
(``pilotctl why``).

Checks and verdicts are pure: they take small facts and return a sentence, a machine-readable code
and what to do. Only :mod:`~pilotstack.diagnosis.probes` has I/O. Nothing here changes anything.
"""
