"""What can be asked of a registry: each request is a type that states everything about it once.

To add a request: its type goes into the module of its topic and the tuple at the end of that, its
handler into a module of :mod:`pilotstack.registry.rules` and the table at the end of that. Whether
standbys answer it, its limits, its metrics and the text that is signed follow from the type.
"""
